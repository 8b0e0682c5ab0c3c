"""Tests of an engine that is not installed are skipped, and say how to install it."""

from importlib.util import find_spec

import pytest

ENGINES = ("vllm", "deepspeed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for engine in ENGINES:
        if find_spec(engine) is None:
            missing = pytest.mark.skip(reason=f"{engine} is not installed; make test-engines installs it")
            for item in items:
                if item.get_closest_marker(engine):
                    item.add_marker(missing)
