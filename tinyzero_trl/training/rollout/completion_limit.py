"""How many tokens a completion may have, on whichever engine samples for a TRL trainer."""

from contextlib import AbstractContextManager
from typing import Any

from trl import GRPOTrainer

from tinyzero_trl.replacing import replaced


class CompletionLimit:
    """The completion limit of the engine that a `trl.GRPOTrainer` samples with, in tokens.

    It works for `generate`, continuous batching and vLLM, on any subclass. `trainer.max_completion_length` is not this
    limit: no engine reads it after construction, and some losses divide by it, so it must stay as configured.
    """

    def __init__(self, trainer: GRPOTrainer) -> None:
        """Any trainer whose `__init__` has run; its engine is looked up at each call."""
        self._trainer = trainer

    @property
    def tokens(self) -> int:
        """Most tokens of the next completions."""
        return int(getattr(*self._field()))

    def at(self, tokens: int) -> AbstractContextManager[None]:
        """Inside the context completions have at most `tokens` tokens; afterwards the former limit holds again."""
        return replaced(*self._field(), tokens)

    def _field(self) -> tuple[Any, str]:
        """The settings of the engine, and what the limit is called in them."""
        if self._trainer.use_vllm:
            return self._trainer.vllm_generation, "max_completion_length"
        return self._trainer.generation_config, "max_new_tokens"
