"""Fields that Transformers has renamed, while TRL, recipes and records keep the old name: both names hold one value."""

from typing import Any

RENAMED = {
    "activation_checkpointing": "gradient_checkpointing",
    "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
}
"""The new name of a field, which newer versions of Transformers read, and its name here, which all versions know."""

_OTHER = RENAMED | {name: new for new, name in RENAMED.items()}


def give_new_names(config: Any) -> None:
    """Copy each renamed field to its new name, where the installed Transformers has one.

    Args:
        config: training arguments that Transformers has not completed yet.

    Raises:
        ValueError: the new name was given, with another value than the name here has.
    """
    for new, name in RENAMED.items():
        if not hasattr(config, new):
            continue
        value, given = getattr(config, name), getattr(config, new)
        if given is not None and given != value:
            raise ValueError(f"{new}: {given!r} contradicts {name} {value!r}; its name here is {name}: set that alone")
        setattr(config, new, value)


def other_name(config: Any, name: str) -> str | None:
    """The second name of a field; None where the installed Transformers knows only one."""
    other = _OTHER.get(name)
    return other if other is not None and hasattr(config, other) else None
