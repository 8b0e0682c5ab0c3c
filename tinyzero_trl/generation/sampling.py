"""From `Sampling` to what Transformers' `generate` takes: settings, and row by row reproducible random numbers.

Where seeds are given, every row draws from a generator of its own. A completion then depends on the model, the prompt
and its seed, and (up to the rounding of a matrix product) neither on its neighbours in the batch nor on the batch's
size or order. Two models that are given the same seeds are compared under common random numbers, which narrows their
difference.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tinyzero_trl.generation.engine import ANSWER_END, Sampling


def end_token_ids(tokenizer: Any, generation_config: GenerationConfig) -> tuple[int, ...]:
    """Every token that ends a completion: the tokenizer's end token and those of the generation settings."""
    configured = generation_config.eos_token_id
    listed = [configured] if isinstance(configured, int) else list(configured or ())
    return tuple(dict.fromkeys(end for end in (tokenizer.eos_token_id, *listed) if end is not None))


def padding_token_id(tokenizer: Any, ends: Sequence[int]) -> int:
    """The tokenizer's padding token. What follows an end token is cut off, so that one may stand in for it."""
    return next((token for token in (tokenizer.pad_token_id, *ends) if token is not None), 0)


def recipe_sampling(recipe: Mapping[str, Any], *, end_token_ids: Sequence[int], pad_token_id: int) -> Sampling:
    """How the fields of a recipe, or of a run's configuration, sample; without seeds."""
    return Sampling(
        temperature=recipe["temperature"],
        top_p=recipe["top_p"],
        top_k=recipe["top_k"] or 0,
        min_p=recipe["min_p"] or 0.0,
        repetition_penalty=recipe["repetition_penalty"],
        end_token_ids=tuple(end_token_ids),
        pad_token_id=pad_token_id,
        stop_strings=recipe_stop_strings(recipe),
    )


def recipe_stop_strings(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """What ends a completion besides end tokens: `stop_strings` of `generation_kwargs`, and its answer if it shall."""
    kwargs = recipe.get("generation_kwargs") or {}
    given: list[str] = []
    for name in ("stop_strings", "stop"):  # the second is vLLM's name
        value = kwargs.get(name) or []
        given += [value] if isinstance(value, str) else list(value)
    return tuple(dict.fromkeys([*given, *((ANSWER_END,) if recipe.get("stop_at_answer") else ())]))


def recipe_stop_tokens(recipe: Mapping[str, Any]) -> tuple[int, ...]:
    """Tokens that end a completion besides those of the model: `stop_token_ids` of `generation_kwargs`, for vLLM."""
    kwargs = recipe.get("generation_kwargs") or {}
    return tuple(kwargs.get("stop_token_ids") or ())


RECIPE_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Settings that a recipe has a field for; any other stands in its `generation_kwargs`."""

_STOPS = ("stop_strings", "stop", "stop_token_ids")

_SHAPE_NOTHING = {
    *("eos_token_id", "pad_token_id", "bos_token_id", "max_length", "max_new_tokens", "do_sample", "use_cache"),
    *("cache_implementation", "disable_compile", "transformers_version"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
}
_NEUTRAL = {name: getattr(Sampling(), name) for name in RECIPE_FIELDS}


def advice_on_own_sampling(generation_config: GenerationConfig, recipe: Mapping[str, Any]) -> str:
    """Names what a model's own settings say otherwise than the recipe, which alone decides; empty if they agree."""
    used = {**{name: recipe[name] for name in RECIPE_FIELDS}, **(recipe.get("generation_kwargs") or {})}
    differing = {
        name: value
        for name, value in generation_config.to_diff_dict().items()
        if value is not None and not name.startswith("_") and name not in _SHAPE_NOTHING
        if value != _value_of(used, name)
    }
    if not differing:
        return ""
    fields = [f"{name}: {value!r}" for name, value in differing.items() if name in RECIPE_FIELDS]
    others = {name: value for name, value in differing.items() if name not in RECIPE_FIELDS}
    fields += [f"generation_kwargs: {others}"] if others else []
    return (
        f"generation_config.json of the model sets {', '.join(differing)}, which the recipe does not follow; to sample "
        f"that way, write {', '.join(fields)}"
    )


def _value_of(used: Mapping[str, Any], name: str) -> Any:
    value = used.get(name)
    return _NEUTRAL.get(name) if value is None else value


def other_sampling(kwargs: Mapping[str, Any]) -> list[str]:
    """Names in `generation_kwargs` that shape completions and that `Sampling` has no field for."""
    known = {*RECIPE_FIELDS, *_STOPS, *_SHAPE_NOTHING} - {"eos_token_id"}
    return [name for name, value in kwargs.items() if name not in known and value is not None]


def generation_settings(sampling: Sampling) -> GenerationConfig:
    """What `generate` takes for `sampling`, without a limit; stop strings and seeds are not part of it."""
    draws_itself = sampling.temperature > 0 and sampling.seeds is None
    random: dict[str, Any] = {}
    if draws_itself:
        random = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        random["min_p"] = sampling.min_p or None
    return GenerationConfig(
        do_sample=draws_itself,
        repetition_penalty=sampling.repetition_penalty,
        eos_token_id=list(sampling.end_token_ids) or None,
        pad_token_id=sampling.pad_token_id,
        **random,
    )


class RowSampler:
    """Draws the tokens of each row with that row's seed: the logits processors for any rows of a batch.

    They are those of `generate`, in its order, and then noise by the Gumbel-max trick: the argmax of logits plus
    Gumbel noise follows the softmax, and `generate` takes the argmax where it is told not to sample.
    Source: Gumbel, "Statistical theory of extreme values" (1954); Maddison et al., "A* sampling", arXiv 1411.0030.
    """

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        assert sampling.seeds is not None, "without seeds `generate` samples by itself"
        self._generators = [torch.Generator(device=device).manual_seed(seed) for seed in sampling.seeds]
        self._warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(sampling.temperature))]
        if sampling.top_k:
            self._warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))
        if sampling.min_p:
            self._warpers.append(MinPLogitsWarper(sampling.min_p))

    def of_rows(self, rows: Sequence[int]) -> LogitsProcessorList:
        """The processors for some rows of the batch, whose generators they go on with."""
        return LogitsProcessorList([*self._warpers, _GumbelNoise([self._generators[row] for row in rows])])


class _GumbelNoise(LogitsProcessor):
    """Adds to row b noise of its own generator."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self._generators = generators

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (B, V) plus noise."""
        exponential = torch.empty_like(scores)
        for noise, generator in zip(exponential, self._generators, strict=True):
            noise.exponential_(generator=generator)
        # -log of a standard exponential is a standard Gumbel variable
        return scores - exponential.log_()  # type: ignore[return-value]
