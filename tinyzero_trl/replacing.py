"""Replace an attribute of another object for a while, such as a setting or a method of a TRL trainer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within it, the attribute `name` of `owner` is `value`; then it is as before, also if only its class had it."""
    is_own, before = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, before)
        else:  # of its class
            delattr(owner, name)
