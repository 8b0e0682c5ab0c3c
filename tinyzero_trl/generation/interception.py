"""What stands in for `model.generate` while somebody else, such as TRL, calls it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, StoppingCriteria, StoppingCriteriaList
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_managed_module

from tinyzero_trl.generation.compacting import Generation, compacting_generate
from tinyzero_trl.replacing import replaced

_GENERATE = GenerationMixin.generate
_COMPACTING_ARGUMENTS = {"input_ids", "attention_mask", "generation_config"}


def compacting_batches(
    model: Any,
    row_ends: StoppingCriteria | None = None,
    run: Callable[[Generation, int], Tensor] | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> AbstractContextManager[None]:
    """Within it, `model.generate` lets finished rows leave, for every call to which that makes no other difference.

    Not where several ranks must run their forward passes in step, and not where somebody has given the model a
    `generate` of its own. Settings that the call leaves open are off, whatever the model's own ones say. `row_ends`
    ends rows in any case, and `run` is that of `compacting_generate`. `autocast` is that of the model's passes: around
    all of them it casts the weights once, and not for every token.
    """
    inherited, as_it_is = model.generate, must_run_in_step(model) or has_own_generate(model)

    def generate(*args: Any, **kwargs: Any) -> Any:
        with own_settings_aside(model):
            if not as_it_is and not args and kwargs.keys() == _COMPACTING_ARGUMENTS:
                with autocast():
                    return compacting_generate(model, **kwargs, row_ends=row_ends, run=run)
            if row_ends:
                kwargs["stopping_criteria"] = StoppingCriteriaList([row_ends])
            return inherited(*args, **kwargs)

    return replaced(model, "generate", generate)


def has_own_generate(model: Any) -> bool:
    """Whether this model, or its class, has another `generate` than that of Transformers."""
    inner = _inner(model)
    return any("generate" in vars(each) for each in (model, inner)) or type(inner).generate is not _GENERATE


def must_run_in_step(model: Any) -> bool:
    """Whether several ranks must run their forward passes in step, because weights are sharded over them."""
    return bool(is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model))


def own_settings_aside(model: Any) -> AbstractContextManager[None]:
    """Within it, the model has no generation settings of its own, from which `generate` fills what is left open."""
    return replaced(_inner(model), "generation_config", GenerationConfig())


def _inner(model: Any) -> Any:
    """The model itself, which an adapter of PEFT asks."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
