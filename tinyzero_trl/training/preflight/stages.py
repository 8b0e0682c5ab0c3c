"""Whether the window limits what a trainer samples, and whether a rollout can be sampled in stages."""

from typing import Any

from torch import nn
from transformers import SynthIDTextWatermarkingConfig

from tinyzero_trl.generation.interception import has_own_generate, must_run_in_step
from tinyzero_trl.windows import WindowPolicy

_REMEDY = "or choose another window_strategy"
_SEVERAL = ("num_beams", "num_return_sequences", "n", "penalty_alpha")
_FROM_THE_START = (
    *("min_new_tokens", "min_length", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
    *("exponential_decay_length_penalty", "max_time", "watermarking_config"),
    *("encoder_repetition_penalty", "encoder_no_repeat_ngram_size", "guidance_scale"),  # of the prompt
    *("min_tokens", "presence_penalty", "frequency_penalty", "bad_words", "structured_outputs"),  # vLLM's, and so is:
    *("seed", "repetition_detection"),
)
"""Settings by which a token depends on the place where sampling began, or on all that was sampled since."""
_OFF = {"encoder_repetition_penalty": 1.0, "guidance_scale": 1.0, "seed": None}
"""With these values they change nothing; the others with 0, or nothing."""


def check_full_length(trainer: Any, policy: WindowPolicy) -> None:
    """Refuse a window that would have no effect, or another one than records and policy are told.

    Args:
        trainer: a `trl.GRPOTrainer`.
        policy: of its window.

    Raises:
        ValueError: names what decides in place of the window.
    """
    full_length, config = trainer.max_completion_length, policy.config
    if policy.window == full_length and (config.strategy == "fixed" or config.min == full_length):
        return
    tools = "environment_factory" if trainer.environment_factories else "tools"
    reasons = {
        "rollout_func": (trainer.rollout_func, "it decides by itself how long completions are"),
        tools: (trainer.tools, "a completion has several parts, and the window limits each alone"),
    }
    for name, (given, reason) in reasons.items():
        if given:
            raise ValueError(
                f"{name}: {reason}, so that window_strategy {config.strategy!r} does not hold; leave it out, or set "
                "window_strategy to fixed without window_max"
            )


def check_stage_trainer(trainer: Any) -> None:
    """Refuse a `trl.GRPOTrainer` whose completions have several turns, or whose scores need whole batches.

    Raises:
        ValueError: names what is in the way.
    """
    turns = {"tools": trainer.tools, "rollout_func": trainer.rollout_func}
    turns |= {"environment_factory": trainer.environment_factories}  # it makes environments at the first rollout
    if used := next((name for name, value in turns.items() if value), None):
        raise ValueError(f"{used}: completions of several turns are not sampled in stages; leave it out, {_REMEDY}")
    if isinstance(trainer.reward_funcs[0], nn.Module):
        raise ValueError(
            "window_strategy: a rollout in stages needs scores at stage ends, and a reward model gives them for whole "
            "batches; put a reward function first, or choose a strategy without stages, such as fixed"
        )


def check_stage_settings(args: Any) -> None:
    """Refuse settings under which a completion in stages is another one than a completion at once.

    Each stage after the first begins with what was sampled so far as a part of the prompt.

    Args:
        args: an `AdaptiveGRPOConfig`.

    Raises:
        ValueError: names the field and what to do.
    """
    if args.use_vllm and args.vllm_mode == "server":
        raise ValueError(f"vllm_mode: 'server' does not sample in stages; set it to colocate, {_REMEDY}")
    if args.use_vllm and args.vllm_enable_sleep_mode:
        raise ValueError(f"vllm_enable_sleep_mode: true puts vLLM to sleep between stages; set it to false, {_REMEDY}")
    kwargs: Any = args.generation_kwargs or {}
    for name in _SEVERAL:
        if (value := kwargs.get(name, 1)) != 1:
            raise ValueError(f"generation_kwargs: {name} {value!r} does not sample in stages; remove it, {_REMEDY}")
    for name in _FROM_THE_START:
        if _starts_anew(name, value := kwargs.get(name)):
            raise ValueError(
                f"generation_kwargs: {name} {value!r} would start anew in each stage; remove it, {_REMEDY}"
            )
    if args.use_vllm and (pattern := args.vllm_structured_outputs_regex):
        raise ValueError(
            f"vllm_structured_outputs_regex: {pattern!r} would start anew in each stage; remove it, {_REMEDY}"
        )


def _starts_anew(name: str, value: Any) -> bool:
    """Whether the value of a setting of `_FROM_THE_START` changes what is sampled."""
    if name == "watermarking_config":  # the other watermarks read the last tokens alone
        return isinstance(value, SynthIDTextWatermarkingConfig)
    return value is not None and value != _OFF[name] if name in _OFF else bool(value)


def check_stage_model(model: Any) -> None:
    """Refuse a model whose `generate` cannot pause.

    Raises:
        ValueError: says what to do.
    """
    if must_run_in_step(model):
        raise ValueError(
            f"engine: generate under ZeRO-3 or FSDP does not sample in stages; sample with vllm, {_REMEDY}"
        )
    if has_own_generate(model):
        raise ValueError(f"model: its own generate does not sample in stages; leave it out, {_REMEDY}")
