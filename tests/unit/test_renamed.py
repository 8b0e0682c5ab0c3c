"""A field that Transformers has renamed has one value, whichever name is set, and one name in what is written."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.recipe.renamed import RENAMED
from tinyzero_trl.training.recipe.unknown_fields import advice_for_unknown
from tinyzero_trl.training.run import resolved_config


@dataclass
class BothNames(AdaptiveGRPOConfig):
    """The configuration as it is where Transformers has the new names, whatever version is installed."""

    activation_checkpointing: bool | None = None
    activation_checkpointing_kwargs: dict[str, Any] | str | None = None


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def config(**values: Any) -> AdaptiveGRPOConfig:
        return BothNames(str(tmp_path), **{"use_cpu": True, "bf16": False, "report_to": "none", **values})

    return config


@pytest.mark.filterwarnings("error::FutureWarning")  # Transformers warns of the old names
@pytest.mark.parametrize("value", [True, False])
def test_the_name_here_decides(config: Any, value: bool) -> None:
    kwargs = {"use_reentrant": value}
    made = config(gradient_checkpointing=value, gradient_checkpointing_kwargs=kwargs)
    assert made.activation_checkpointing is made.gradient_checkpointing is value
    assert made.activation_checkpointing_kwargs == made.gradient_checkpointing_kwargs == kwargs


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"activation_checkpointing": False},
            r"activation_checkpointing: False contradicts gradient_checkpointing True",
        ),
        (
            {"activation_checkpointing_kwargs": {"offload": True}},
            r"activation_checkpointing_kwargs: \{'offload': True\} contradicts gradient_checkpointing_kwargs None",
        ),
    ],
    ids=str,
)
def test_two_values_are_refused(config: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}; its name here is gradient_checkpointing\w*: set that alone$"):
        config(**values)


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_a_field_that_is_set_later_is_set_under_both_names(config: Any, name: str) -> None:
    made = config()
    setattr(made, name, False)
    setattr(made, f"{name}_kwargs", {})
    getattr(made, f"{name}_kwargs")["use_reentrant"] = True  # as TRL does for an adapter under ZeRO-3
    assert made.activation_checkpointing is made.gradient_checkpointing is False
    assert made.activation_checkpointing_kwargs == made.gradient_checkpointing_kwargs == {"use_reentrant": True}


def test_what_is_written_has_the_name_that_every_version_reads(config: Any) -> None:
    written = resolved_config(None, config(gradient_checkpointing=False), None)
    assert written["gradient_checkpointing"] is False
    assert not RENAMED.keys() & written.keys()


def test_a_new_name_is_explained_where_transformers_does_not_know_it() -> None:
    assert advice_for_unknown("activation_checkpointing", []) == "its name here is gradient_checkpointing"


def test_the_table_holds_every_alias_of_the_installed_version() -> None:
    """A further renaming by Transformers fails here: give it a line in `training/recipe/renamed.py`."""
    declared = {each.name: str(each.metadata.get("help", "")) for each in fields(TrainingArguments)}
    aliases = {name for name, help in declared.items() if "alias of" in help.lower()}
    assert aliases == {name for new, name in RENAMED.items() if new in declared}
