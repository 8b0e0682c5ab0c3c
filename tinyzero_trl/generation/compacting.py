"""Transformers' `generate`, with a batch that shrinks while its rows finish.

`generate` carries every row of a batch until the last one has ended: with long-tailed lengths most of its work, and of
the cache that is copied at every token, belongs to rows that have finished. Here it is called in stages. A stage ends
once an eighth of its rows is done; those leave, the others go on with their part of the cache. Sampling itself, caches
and logits processors remain those of `generate`. A completion follows the same distribution as before, and under greedy
decoding it is the same up to the rounding of a matrix product; the random numbers that a sampled row meets are others.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_managed_module

from tinyzero_trl.generation.cache import decoding_attention, roomy_cache
from tinyzero_trl.models.architectures import is_plain_decoder

# Measured with the embedded model (128 rows of up to 256 tokens, one core): a quarter takes 10 % longer, a half 20 %.
FINISHED_FRAC_OF_A_STAGE = 0.125

_SHRINKABLE_ARGUMENTS = {"input_ids", "attention_mask", "generation_config"}

_PLAIN_SETTINGS = {
    *("max_new_tokens", "max_length", "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"),
    *("repetition_penalty", "pad_token_id", "bos_token_id", "eos_token_id"),
    *("disable_compile", "transformers_version", "_from_model_config"),
}
_NEUTRAL: dict[str, Any] = {"use_cache": True, "num_beams": 1, "num_return_sequences": 1}
"""Other settings change nothing where they are off, or have these values."""

ProcessorsForRows = Callable[[Sequence[int]], LogitsProcessorList]
"""The logits processors of the given rows of the batch, for processors that treat rows differently."""


def generate_while_any_unfinished(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    generation_config: GenerationConfig,
    processors_for: ProcessorsForRows | None = None,
    row_ends: StoppingCriteria | None = None,
) -> Tensor:
    """What `model.generate` returns for these arguments, from less work where rows differ in length and may leave.

    Args:
        model: a causal language model of Transformers; where `can_shrink` says no, `generate` gets the whole batch.
        input_ids: prompts padded on the left, (B, P).
        attention_mask: 1 where there is a token, (B, P).
        generation_config: what it leaves open is filled from the model's own, as in `generate`.
        processors_for: additional logits processors; called with the rows that are left, ascending, at each stage.
        row_ends: ends rows one by one, besides the end tokens: (rows, tokens) -> (rows,) bool.

    Returns:
        Prompts and completions, (B, P + C), padded on the right to the longest completion.
    """
    generate = type(model).generate  # the class's own, also where `shrinking_batches` stands in for it
    if not can_shrink(model, generation_config):
        return generate(
            model,
            input_ids=input_ids,
            attention_mask=attention_mask,
            generation_config=generation_config,
            logits_processor=processors_for(range(len(input_ids))) if processors_for else None,
            stopping_criteria=StoppingCriteriaList([row_ends]) if row_ends else None,
        )
    ends, pad = _end_tokens(model, generation_config, input_ids.device), _pad_token(model, generation_config)
    prompt_width = input_ids.size(1)
    limit = prompt_width + generation_config.max_new_tokens
    rows = torch.arange(input_ids.size(0), device=input_ids.device)
    sequences = input_ids.new_full((input_ids.size(0), limit), pad)
    cache = roomy_cache(model)
    while True:
        finished = _EnoughFinished(ends, row_ends)
        stage_config = copy.deepcopy(generation_config)
        stage_config.update(max_new_tokens=limit - input_ids.size(1), return_dict_in_generate=True)
        with decoding_attention(model):
            stage = generate(
                model,
                input_ids=input_ids,
                attention_mask=attention_mask,
                past_key_values=cache,
                generation_config=stage_config,
                logits_processor=processors_for(rows.tolist()) if processors_for else None,
                stopping_criteria=StoppingCriteriaList([finished]),
            )
        input_ids, cache, width = stage.sequences, stage.past_key_values, stage.sequences.size(1)
        sequences[rows, :width] = input_ids
        left = (~finished.rows).nonzero().squeeze(1)
        if width == limit or not len(left):
            return sequences[:, :width]
        cache.batch_select_indices(left.cpu())  # from there it serves layers on any device
        written = attention_mask.new_ones(len(left), width - attention_mask.size(1))
        attention_mask = torch.cat([attention_mask[left], written], dim=1)
        input_ids, rows = input_ids[left], rows[left]


@contextmanager
def shrinking_batches(model: Any, row_ends: StoppingCriteria | None = None) -> Iterator[None]:
    """Within it, `model.generate` lets finished rows leave, for every call to which that makes no other difference.

    Not where several ranks must run their forward passes in step, because weights are sharded over them. `row_ends`
    ends rows in either case.
    """
    in_step = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)
    of_instance, inherited = vars(model).get("generate"), model.generate  # Trainer gives an FSDP2 model its own

    def generate(*args: Any, **kwargs: Any) -> Any:
        if not in_step and not args and kwargs.keys() == _SHRINKABLE_ARGUMENTS:
            return generate_while_any_unfinished(model, **kwargs, row_ends=row_ends)
        if row_ends:
            kwargs["stopping_criteria"] = StoppingCriteriaList([row_ends])
        return inherited(*args, **kwargs)

    model.generate = generate
    try:
        yield
    finally:
        if of_instance is None:
            del model.generate
        else:
            model.generate = of_instance


def can_shrink(model: Any, generation_config: GenerationConfig) -> bool:
    """Whether stages give what one call would: plain sampling by a plain decoder, ended by tokens or the limit.

    Asked of the settings that `generate` would go by: those given, and the model's own for what they leave open.
    """
    settings = {**model.generation_config.to_diff_dict(), **generation_config.to_diff_dict()}
    further = any(
        value and value != _NEUTRAL.get(name) for name, value in settings.items() if name not in _PLAIN_SETTINGS
    )
    is_plain = not further and settings.get("use_cache") is not False and settings.get("max_new_tokens") is not None
    return is_plain and is_plain_decoder(model)


class _EnoughFinished(StoppingCriteria):
    """Ends each row where it ends, and all rows of the stage once a share of them has; `rows` (B,) says which have."""

    def __init__(self, ends: Tensor, row_ends: StoppingCriteria | None) -> None:
        self._ends, self._row_ends = ends, row_ends
        self.rows = torch.zeros(1, dtype=torch.bool, device=ends.device)

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """`input_ids` (B, P + tokens so far) -> (B,)."""
        self.rows = self.rows | torch.isin(input_ids[:, -1], self._ends)
        if self._row_ends:
            self.rows = self.rows | self._row_ends(input_ids, scores)
        return self.rows | (self.rows.float().mean() >= FINISHED_FRAC_OF_A_STAGE)  # type: ignore[return-value]


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
