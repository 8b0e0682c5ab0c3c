"""Transformers' `generate`, with a batch that becomes smaller while its rows finish.

`generate` carries every row of a batch until the last one has ended: with long-tailed lengths most of its work, and of
the cache that is copied at every token, belongs to rows that have finished. Here it is called again and again. A call
ends once an eighth of its rows is done; those leave, the others go on with their part of the cache. Sampling itself,
caches and logits processors remain those of `generate`. A completion follows the same distribution as before, and under
greedy decoding it is the same up to the rounding of a matrix product; the random numbers that a sampled row meets are
others.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.utils import ALL_CACHE_NAMES

from tinyzero_trl.generation.cache import decoding_attention, preallocated_cache
from tinyzero_trl.models.architectures import is_plain_decoder

# Measured with the embedded model (128 rows of up to 256 tokens, one core): a quarter takes 10 % longer, a half 20 %.
FINISHED_FRAC_OF_A_CALL = 0.125

_PLAIN_SETTINGS = {
    *("max_new_tokens", "max_length", "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"),
    *("repetition_penalty", "pad_token_id", "bos_token_id", "eos_token_id"),
    *("disable_compile", "transformers_version", "_from_model_config"),
}
_CACHE = ALL_CACHE_NAMES[0]  # past_key_values, and cache from Transformers 5.24 on
_NEUTRAL: dict[str, Any] = {"use_cache": True, "num_beams": 1, "num_return_sequences": 1}
"""Other settings change nothing where they are off, or have these values."""

ProcessorsForRows = Callable[[Sequence[int]], LogitsProcessorList]
"""The logits processors of the given rows of the batch, for processors that treat rows differently."""


class Generation:
    """A batch whose rows are sampled up to one limit, and from there, as far as they are kept, up to the next.

    Rows that have finished leave the batch, and the others keep their part of the cache, where `can_compact` allows
    it. Elsewhere `generate` gets the whole batch, and reads prompts and completions anew at each limit.

    Args:
        model: a causal language model of Transformers.
        input_ids: prompts padded on the left, (B, P).
        attention_mask: 1 where there is a token, (B, P).
        generation_config: what it leaves open is filled from the model's own, as in `generate`.
        processors_for: additional logits processors; called with the rows that are left, ascending, at each call.
        row_ends: ends rows one by one, besides the end tokens: (rows, tokens) -> (rows,) bool.
    """

    def __init__(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        generation_config: GenerationConfig,
        processors_for: ProcessorsForRows | None = None,
        row_ends: StoppingCriteria | None = None,
    ) -> None:
        rows, self._prompt_width = input_ids.shape
        self.sequences = input_ids
        """Prompts and completions so far, (B, P + C), padded on the right."""
        self.lengths = torch.zeros(rows, dtype=torch.long, device=input_ids.device)
        """Tokens of each completion so far, (B,)."""
        self.finished = torch.zeros(rows, dtype=torch.bool, device=input_ids.device)
        """Whether each row has ended by itself, (B,)."""
        self._model, self._config = model, generation_config
        self._processors_for, self._row_ends = processors_for, row_ends
        self._ends = _end_tokens(model, generation_config, input_ids.device)
        self._pad = _pad_token(model, generation_config)
        limited = copy.deepcopy(generation_config)
        limited.update(max_new_tokens=1)
        self._cache = preallocated_cache(model) if can_compact(model, limited) else None
        self._rows = torch.arange(rows, device=input_ids.device)  # that are in the batch
        self._input_ids, self._attention_mask = input_ids, attention_mask

    def run(self, limit: int) -> None:
        """Sample each row of the batch until it ends or its completion has `limit` tokens."""
        end = self._prompt_width + limit
        sequences = self.sequences.new_full((len(self.sequences), end), self._pad)
        sequences[:, : self.sequences.size(1)] = self.sequences
        while True:
            ended_at = self._call_generate(end)
            width, ended = self._input_ids.size(1), ended_at > 0
            sequences[self._rows, :width] = self._input_ids
            self.finished[self._rows] = ended
            self.lengths[self._rows] = torch.where(ended, ended_at, width) - self._prompt_width
            left = (~ended).nonzero().squeeze(1)
            if width == end or not len(left):
                self.sequences = sequences[:, : max(width, self.sequences.size(1))]
                return
            self._keep(left)

    def keep(self, rows: Sequence[int]) -> None:
        """Leave only `rows` of the original batch in it, which must be in it and may not have finished."""
        wanted = torch.tensor(rows, dtype=torch.long, device=self._rows.device)
        kept = torch.isin(self._rows, wanted).nonzero().squeeze(1)
        assert len(kept) == len(wanted) and not self.finished[wanted].any(), "a row that has left cannot go on"
        self._keep(kept)

    def completion_ids(self) -> list[list[int]]:
        """The completions so far, without padding."""
        rows = self.sequences[:, self._prompt_width :].tolist()
        return [ids[:length] for ids, length in zip(rows, self.lengths.tolist(), strict=True)]

    def _keep(self, left: Tensor) -> None:
        """Go on with some rows of the batch, given by their places in it."""
        if self._cache is not None and len(left) < len(self._rows):
            self._cache.batch_select_indices(left.cpu())  # from there it serves layers on any device
        written = self._attention_mask.new_ones(len(left), self._input_ids.size(1) - self._attention_mask.size(1))
        self._attention_mask = torch.cat([self._attention_mask[left], written], dim=1)
        self._input_ids, self._rows = self._input_ids[left], self._rows[left]

    def _is_padded(self) -> bool:
        return not bool(self._attention_mask.all())

    def _call_generate(self, end: int) -> Tensor:
        """Let the rows of the batch grow up to `end`; returns where each has ended, 0 where it has not, (rows,)."""
        finished = _Finished(self._ends, self._row_ends, None if self._cache is None else FINISHED_FRAC_OF_A_CALL)
        config = copy.deepcopy(self._config)
        config.update(max_new_tokens=end - self._input_ids.size(1), return_dict_in_generate=True)
        arguments: dict[str, Any] = {} if self._cache is None else {_CACHE: self._cache}
        with nullcontext() if self._cache is None else decoding_attention(self._model, padded=self._is_padded()):
            result = type(self._model).generate(
                self._model,
                input_ids=self._input_ids,
                attention_mask=self._attention_mask,
                generation_config=config,
                logits_processor=self._processors_for(self._rows.tolist()) if self._processors_for else None,
                stopping_criteria=StoppingCriteriaList([finished]),
                **arguments,
            )
        self._input_ids = result.sequences
        if self._cache is not None:
            self._cache = getattr(result, _CACHE)
        return finished.ended_at


class _Finished(StoppingCriteria):
    """Ends each row where it ends, and all rows once `enough` of them have, as a fraction.

    `ended_at` (B,) is the width of the batch at which each row has ended, 0 for rows that have not.
    """

    def __init__(self, ends: Tensor, row_ends: StoppingCriteria | None, enough: float | None) -> None:
        self._ends, self._row_ends, self._enough = ends, row_ends, enough
        self.ended_at = torch.zeros(1, dtype=torch.long, device=ends.device)

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """`input_ids` (B, P + tokens so far) -> (B,)."""
        ended = torch.isin(input_ids[:, -1], self._ends)
        if self._row_ends:
            ended = ended | self._row_ends(input_ids, scores)
        self.ended_at = torch.where((self.ended_at == 0) & ended, input_ids.size(1), self.ended_at)
        done = self.ended_at > 0
        return done if self._enough is None else done | (done.float().mean() >= self._enough)  # type: ignore[return-value]


def compacting_generate(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    generation_config: GenerationConfig,
    processors_for: ProcessorsForRows | None = None,
    row_ends: StoppingCriteria | None = None,
    run: Callable[[Generation, int], Tensor] | None = None,
) -> Tensor:
    """What `model.generate` returns for the arguments of a `Generation`: prompts and completions, (B, P + C).

    `generate` itself gets the whole batch where `can_compact` says no. `run` samples the generation up to the limit in
    another way than at once, such as the next of its stages, and returns what `generate` would.
    """
    if run or can_compact(model, generation_config):
        generation = Generation(model, input_ids, attention_mask, generation_config, processors_for, row_ends)
        if run:
            return run(generation, generation_config.max_new_tokens)
        generation.run(generation_config.max_new_tokens)
        return generation.sequences
    return type(model).generate(  # the class's own, also where another stands in for it
        model,
        input_ids=input_ids,
        attention_mask=attention_mask,
        generation_config=generation_config,
        logits_processor=processors_for(range(len(input_ids))) if processors_for else None,
        stopping_criteria=StoppingCriteriaList([row_ends]) if row_ends else None,
    )


def can_compact(model: Any, generation_config: GenerationConfig) -> bool:
    """Whether several calls give what one would: plain sampling by a plain decoder, ended by tokens or the limit.

    Asked of the settings that `generate` would go by: those given, and the model's own for what they leave open.
    """
    settings = {**model.generation_config.to_diff_dict(), **generation_config.to_diff_dict()}
    further = any(
        value and value != _NEUTRAL.get(name) for name, value in settings.items() if name not in _PLAIN_SETTINGS
    )
    is_plain = not further and settings.get("use_cache") is not False and settings.get("max_new_tokens") is not None
    return is_plain and is_plain_decoder(model)


def _end_tokens(model: Any, generation_config: GenerationConfig, device: torch.device) -> Tensor:
    """Every token that ends a row, (E,); as in `generate`, the model's own settings fill what is left open."""
    ends = generation_config.eos_token_id
    ends = model.generation_config.eos_token_id if ends is None else ends
    return torch.tensor([] if ends is None else ends, dtype=torch.long, device=device).reshape(-1)


def _pad_token(model: Any, generation_config: GenerationConfig) -> int:
    for pad in (generation_config.pad_token_id, model.generation_config.pad_token_id):
        if pad is not None:
            return pad
    return 0
