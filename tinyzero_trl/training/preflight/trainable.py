"""Whether training can change the model at all: a run without effect would end as if it had learned nothing."""

from typing import Any

from torch import nn


def check_trainable(model: Any, peft_config: Any = None) -> None:
    """A model that is given as it is must have a trainable parameter; one loaded by name, or with an adapter, has one.

    Raises:
        ValueError: every parameter is frozen.
    """
    if not isinstance(model, nn.Module) or peft_config is not None:
        return
    if not any(parameter.requires_grad for parameter in model.parameters()):
        remedy = (
            "load the adapter with is_trainable=True"
            if hasattr(model, "peft_config")
            else "set requires_grad on what is to be trained, or give a peft_config"
        )
        raise ValueError(f"model: every parameter of this {type(model).__name__} is frozen; {remedy}")


def check_given_optimizer(optimizer: Any, model: nn.Module) -> None:
    """An optimizer that is given must hold a trainable parameter of the model.

    Raises:
        ValueError: it holds none, as one that was made for another copy of the model.
    """
    if optimizer is None:
        return
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(id(parameter) in trainable for parameter in held):
        raise ValueError(
            f"optimizers: none of the {len(held)} parameters of the optimizer is one of the model that is trained; "
            "give the model as an object and make the optimizer from its parameters, or leave optimizers out"
        )
