"""Where completions end: with an end token, or with a stop string."""

from typing import Any

from transformers import GenerationConfig

from tinyzero_trl.generation.sampling import recipe_stop_strings, recipe_stop_tokens
from tinyzero_trl.models.loading import give_end_token
from tinyzero_trl.training.trl_internals import tokenizer_of


class CompletionEnds:
    """What ends a completion before the engine's limit.

    Args:
        trainer: whose tokenizer and configuration say it.

    Attributes:
        tokens: each of them ends a completion.
        strings: so does each of these texts.

    Raises:
        ValueError: there is no end token.
    """

    def __init__(self, trainer: Any) -> None:
        asked = vars(trainer.args)
        self._tokenizer = tokenizer_of(trainer)
        self.tokens = frozenset([*trainer.eos_token_ids, *recipe_stop_tokens(asked)])
        self.strings = recipe_stop_strings(asked)
        if None in self.tokens:
            give_end_token(self._tokenizer, GenerationConfig())

    def is_cut(self, ids: list[int]) -> bool:
        """Whether a completion was cut. TRL also takes a padding token for an end, but a sampled one ends nothing."""
        return not (ids and ids[-1] in self.tokens) and not self._has_string(ids)

    def without_padding(self, ids: list[int]) -> list[int]:
        """A completion that ended with a string is padded to its batch, and TRL takes the padding for tokens."""
        pad: Any = self._tokenizer.pad_token_id
        kept = len(ids)
        while kept and ids[kept - 1] == pad:
            kept -= 1
        return ids[:kept] if self._has_string(ids) else ids

    def _has_string(self, ids: list[int]) -> bool:
        """Whether a stop string is in the text as sampled, with special tokens: one of them may be the stop."""
        if not self.strings:
            return False
        text = str(self._tokenizer.decode(ids))
        return any(stop in text for stop in self.strings)
