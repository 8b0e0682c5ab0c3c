"""Mappings inside a field are checked as strictly as fields: the library function that reads one is tried on it."""

import math
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, get_scheduler

from tinyzero_trl.generation.sampling import RECIPE_FIELDS
from tinyzero_trl.messages import shortened, text_of

_LENGTHS = ("max_new_tokens", "max_length", "max_tokens")
_COUNTS = ("num_return_sequences", "n")
_SAMPLING_FIELDS = (*RECIPE_FIELDS, "cache_implementation")
_TRIED_STEPS = 1000  # length of a schedule that is tried where the run's own is not known yet


def check_mappings(config: Any) -> None:
    """Try `generation_kwargs`, `lr_scheduler_kwargs` and `gradient_checkpointing_kwargs` on what reads them.

    Args:
        config: an `AdaptiveGRPOConfig` that TRL has completed.

    Raises:
        ValueError: a name that nothing reads, a value that does not fit, or one that contradicts a field.
    """
    _check_generation(config)
    _check_schedule(config)
    _check_gradient_checkpointing(config)


def check_offload(training: Any) -> None:
    """Whether there is a device whose memory `offload` can spare; asked where a run is made, and not planned.

    Raises:
        ValueError: training is on a CPU.
    """
    if (training.gradient_checkpointing_kwargs or {}).get("offload") and training.device.type == "cpu":
        raise ValueError("gradient_checkpointing_kwargs: offload true needs a GPU, whose memory it spares; remove it")


def check_no_length(given: dict[str, Any]) -> None:
    """`generation_kwargs` leave the length of completions to the window.

    Raises:
        ValueError: one of them is a length.
    """
    for name in filter(given.__contains__, _LENGTHS):
        raise ValueError(
            f"generation_kwargs: {name} {shortened(given[name])} would contradict the rollout window; remove it, and "
            "set max_completion_length or the window fields"
        )


def check_vllm_sampling(training: Any) -> None:
    """The names of vLLM in `generation_kwargs`, tried on its `SamplingParams`; asked where vLLM is about to be used.

    Raises:
        ValueError: vLLM is not installed, or refuses a name or a value.
    """
    if not training.use_vllm:
        return
    try:
        from vllm import SamplingParams
    except ImportError as error:
        raise ValueError(
            f"use_vllm: true, but vllm cannot be imported ({text_of(error)}); pip install 'tinyzero-trl[vllm]', or "
            "leave it out"
        ) from None
    given = {
        name: value
        for name, value in (training.generation_kwargs or {}).items()
        if name not in ("structured_outputs", "stop_strings")
    }
    if not given:
        return
    try:
        SamplingParams(**given)
    except Exception as error:
        raise ValueError(
            f"generation_kwargs: {shortened(given)} is refused by vLLM's SamplingParams ({text_of(error)}); correct it"
        ) from None


def _check_generation(config: Any) -> None:
    given: dict[str, Any] = config.generation_kwargs or {}
    check_no_length(given)
    for name in given:
        value = shortened(given[name])
        if name in _COUNTS and given[name] != 1:
            raise ValueError(
                f"generation_kwargs: {name} {value} would break the groups of a rollout; remove it, and set "
                "num_generations"
            )
        if name in _SAMPLING_FIELDS and given[name] != (field := getattr(config, name)):
            raise ValueError(
                f"generation_kwargs: {name} {value} contradicts the field {name} ({field!r}); remove it, and set the "
                "field"
            )
    if given.get("do_sample") is False:
        raise ValueError("generation_kwargs: do_sample false makes all completions of a group the same; remove it")
    if given.get("return_dict_in_generate"):
        raise ValueError(
            "generation_kwargs: return_dict_in_generate true returns what TRL does not read; remove it, and the "
            "output_ names with it"
        )
    _check_stops(config, given)
    if given and not config.use_vllm:
        _try_generation_config(config, given)


def _check_stops(config: Any, given: dict[str, Any]) -> None:
    """As `stop_at_answer`, they end completions without an end token. `stop_strings` are ours to apply."""
    if (stops := given.get("stop_strings")) is not None and not _are_texts(stops):
        raise ValueError(f"generation_kwargs: stop_strings {stops!r} is no text or list of texts; correct it")
    ids = given.get("stop_token_ids")
    if config.use_vllm and ids and not (isinstance(ids, list) and all(type(each) is int for each in ids)):
        raise ValueError(f"generation_kwargs: stop_token_ids {shortened(ids)} is no list of token ids; correct it")
    of_vllm = {"stop": "ends", "stop_token_ids": "end"} if config.use_vllm else {}
    verbs = {"stop_strings": "end", **of_vllm}
    for name in filter(given.get, verbs):
        for field in ("mask_truncated_completions", "use_transformers_continuous_batching"):
            if getattr(config, field):
                raise ValueError(
                    f"generation_kwargs: {name} {verbs[name]} completions without an end token, which {field} does not "
                    "know; remove one of the two"
                )


def _are_texts(stops: Any) -> bool:
    return bool(stops) and all(
        isinstance(stop, str) and stop for stop in ([stops] if isinstance(stops, str) else stops)
    )


def _try_generation_config(config: Any, given: dict[str, Any]) -> None:
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")} - {"transformers_version"}
    if unknown := [name for name in given if name not in known]:
        raise ValueError(
            f"generation_kwargs: {unknown[0]!r} is no option of Transformers' GenerationConfig; remove it, or correct "
            "its name"
        )
    fields = {name: getattr(config, name) for name in _SAMPLING_FIELDS}
    try:
        tried = GenerationConfig(max_new_tokens=2, do_sample=True, pad_token_id=0, **{**fields, **given})
        tried.validate(strict=True)
        _sample_once(tried)
    except Exception as error:  # whatever a wrong value brings about
        raise ValueError(f"generation_kwargs: {shortened(given)} is refused ({text_of(error)}); correct it") from None


def _sample_once(tried: GenerationConfig) -> None:
    """Most values are judged by `generate` alone: on a model of one layer, with random numbers of its own."""
    tried.stop_strings = None  # they need a tokenizer
    sizes: dict[str, Any] = {"vocab_size": 2**19, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    with torch.random.fork_rng():
        model: Any = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=1, num_key_value_heads=1))
        model.generate(torch.ones(1, 2, dtype=torch.long), generation_config=tried)


def _check_schedule(config: Any) -> None:
    """Build the schedule on one weight, and ask it for the first, a middle and the last learning rate."""
    steps = config.max_steps if config.max_steps > 0 else _TRIED_STEPS
    kind, given = str(getattr(config.lr_scheduler_type, "value", config.lr_scheduler_type)), config.lr_scheduler_kwargs
    if given and kind in ("constant", "constant_with_warmup"):
        raise ValueError(
            f"lr_scheduler_kwargs: {shortened(given)} has no effect on lr_scheduler_type {kind!r}; remove it, or "
            "choose another type"
        )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        schedule = get_scheduler(
            kind,
            optimizer,
            num_warmup_steps=config.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=given,
        )
        for rate in getattr(schedule, "lr_lambdas", ()):
            if not all(math.isfinite(rate(step)) for step in (0, steps // 2, steps)):
                raise ValueError("a learning rate is not finite")
    except Exception as error:  # whatever a wrong value brings about
        raise ValueError(
            f"lr_scheduler_type: {kind!r} cannot be built with lr_scheduler_kwargs {shortened(given or {})} "
            f"({text_of(error)}); change one of the two"
        ) from None


def _check_gradient_checkpointing(config: Any) -> None:
    """Trainer takes two entries out of the mapping, and PyTorch gets the others."""
    of_torch = dict(given := config.gradient_checkpointing_kwargs or {})
    every, offload = of_torch.pop("every_n_layers", 1), of_torch.pop("offload", False)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(
            f"gradient_checkpointing_kwargs: every_n_layers {shortened(every)} is no whole number from 1 on; correct it"
        )
    if not isinstance(offload, bool):
        raise ValueError(
            f"gradient_checkpointing_kwargs: offload {shortened(offload)} is neither true nor false; correct it"
        )
    try:
        checkpoint(torch.square, torch.ones(1, requires_grad=True), **{"use_reentrant": False, **of_torch})
    except Exception as error:
        raise ValueError(
            f"gradient_checkpointing_kwargs: {shortened(given)} is refused by torch.utils.checkpoint "
            f"({text_of(error)}); correct it, or remove it"
        ) from None
