"""Engines by name, for training and evaluation alike: of this package, of installed ones, and of a user's module."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from tinyzero_trl.generation.engine import Engine, EngineSetup
from tinyzero_trl.messages import page
from tinyzero_trl.plugins import find_class, made, offered_names

ENTRY_POINTS = "tinyzero_trl.engines"
"""The entry point group in which an installed package offers its engines."""

_BUILT_IN = {
    "transformers": "tinyzero_trl.generation.transformers_engine:TransformersEngine",
    "vllm": "tinyzero_trl.generation.vllm_engine:VllmEngine",
}
_REGISTERED: dict[str, type[Engine]] = {}


def register_engine(name: str) -> Callable[[type[Engine]], type[Engine]]:
    """Make an engine known by a name, for `engine: name` in training and `--engine name` in evaluation.

    Raises:
        ValueError: the name is taken, or the class is no `Engine`.
    """

    def register(engine: type[Engine]) -> type[Engine]:
        known = _REGISTERED.get(name, engine)
        taken = (known.__module__, known.__qualname__) != (engine.__module__, engine.__qualname__)  # not only reloaded
        if is_built_in(name) or taken or ":" in name:
            raise ValueError(f"register_engine: the name {name!r} is taken; choose another without a colon")
        _REGISTERED[name] = _checked(name, engine)
        return engine

    return register


def choose_engine(engine: str) -> str:
    """The name of the engine that `engine` stands for: `auto` takes vLLM where it is installed beside a CUDA device.

    Raises:
        ValueError: it is unknown, or vLLM is asked for and not installed.
    """
    if engine in ("auto", "vllm"):
        installed = find_spec("vllm") is not None
        if engine == "vllm" and not installed:
            raise ValueError(
                "engine: 'vllm' is not installed; pip install 'tinyzero-trl[vllm]', or use the engine transformers"
            )
        return "vllm" if installed and (engine == "vllm" or _has_cuda()) else "transformers"
    engine_class(engine)
    return engine


def is_built_in(engine: str) -> bool:
    """Whether `engine` is a name that training leaves to TRL."""
    return engine in ("auto", *_BUILT_IN)


def engine_class(name: str) -> type[Engine]:
    """The engine of a name that is built in, registered, offered by an installed package, or `package.module:Class`.

    Raises:
        ValueError: it is unknown, or cannot be imported.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    engine = find_class(_BUILT_IN.get(name, name), field="engine", group=ENTRY_POINTS)
    if engine is None:
        known = ", ".join(dict.fromkeys(["auto", *_BUILT_IN, *sorted({*_REGISTERED, *offered_names(ENTRY_POINTS)})]))
        raise ValueError(f"engine: {name!r} is unknown; use one of {known}, or package.module:Class")
    return _checked(name, engine)


def make_engine(name: str, setup: EngineSetup) -> Engine:
    """The engine of a name, made. Where its `__init__` does not call that of `Engine`, it gets what that would set.

    Raises:
        ValueError: as `engine_class`; or the class takes other arguments, or lacks a method.
    """
    remedy = f"let __init__ take the setup alone, see {page('engines.md')}"
    engine: Engine = made(engine_class(name), setup, field="engine", name=name, remedy=remedy)
    for attribute, value in (("setup", setup), ("rows_per_call", setup.batch_size)):
        if not hasattr(engine, attribute):
            setattr(engine, attribute, value)
    return engine


def _checked(name: str, engine: Any) -> type[Engine]:
    if not (isinstance(engine, type) and issubclass(engine, Engine)):
        raise ValueError(f"engine: {name!r} is no Engine; derive the class from tinyzero_trl.Engine")
    return engine


def _has_cuda() -> bool:
    import torch  # here, so that a module with an engine can be imported where torch is not

    return torch.cuda.is_available()
