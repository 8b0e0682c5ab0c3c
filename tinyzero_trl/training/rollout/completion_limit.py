"""How many tokens a completion may have, on whichever engine samples for a TRL trainer."""

from collections.abc import Iterator
from contextlib import contextmanager

from trl import GRPOTrainer


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
        if self._trainer.use_vllm:
            return int(self._trainer.vllm_generation.max_completion_length)
        return int(self._trainer.generation_config.max_new_tokens)

    @tokens.setter
    def tokens(self, tokens: int) -> None:
        if self._trainer.use_vllm:
            self._trainer.vllm_generation.max_completion_length = tokens
        else:
            self._trainer.generation_config.max_new_tokens = tokens

    @contextmanager
    def at(self, tokens: int) -> Iterator[None]:
        """Inside the context completions have at most `tokens` tokens; afterwards the former limit holds again."""
        before, self.tokens = self.tokens, tokens
        try:
            yield
        finally:
            self.tokens = before
