"""Whether the optimizer that `optim` names can be built here, and whether it reads what `optim_args` gives it."""

import copy
from typing import Any

import torch
from transformers import Trainer

from tinyzero_trl.messages import text_of

_PROBE = "0.5"  # the default of no optimizer: a name that is read changes what is built, or is refused


def check_optimizer(training: Any) -> None:
    """Build the optimizer by Trainer's own factory, on a model of one layer.

    Args:
        training: the training arguments.

    Raises:
        ValueError: a library is missing, a value does not fit, or nothing reads a name in `optim_args`.
    """
    optim, given = str(getattr(training.optim, "value", training.optim)), training.optim_args
    pairs = [pair.split("=") for pair in str(given or "").replace(" ", "").split(",") if pair]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"optim_args: {given!r} is no list of pairs; write name=value,name=value")
    try:
        _build(training, optim_args=None)
    except Exception as error:  # a library that is missing raises ImportError or ValueError
        raise ValueError(
            f"optim: {optim!r} cannot be built ({text_of(error)}); remedy that, or choose adamw_torch"
        ) from None
    for name, _ in pairs:
        if not _reads(training, name):
            raise ValueError(f"optim_args: {name!r} has no effect on optim {optim!r}; remove it, or correct its name")
    try:
        _build(training, optim_args=given)
    except Exception as error:
        raise ValueError(
            f"optim_args: {given!r} is refused by optim {optim!r} ({text_of(error)}); correct it"
        ) from None


def _build(training: Any, optim_args: str | None) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    kind, kwargs = _factory(training, model, optim_args)
    # Some optimizers choose among the parameters of the real model: these are not built here.
    if isinstance(kind, type) and not {"params", "model", "optimizer_dict"} & set(kwargs):
        kind(model.parameters(), **kwargs)


def _reads(training: Any, name: str) -> bool:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    _, without = _factory(training, model, None)
    try:
        return bool(_factory(training, model, f"{name}={_PROBE}")[1] != without)
    except Exception:  # it was read, and the probe does not fit
        return True


def _factory(training: Any, model: Any, optim_args: str | None) -> tuple[Any, dict[str, Any]]:
    arguments = copy.copy(training)
    arguments.optim_args = optim_args
    if training.optim_target_modules is not None:
        arguments.optim_target_modules = "all-linear"  # the names of the real model say nothing of this one
    kind, kwargs = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return kind, kwargs
