"""Whether a rollout can be sampled in stages."""

from typing import Any

from transformers import SynthIDTextWatermarkingConfig

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


def check_stage_model(*, in_step: bool, own_generate: bool) -> None:
    """Refuse a `generate` that cannot pause.

    Args:
        in_step: whether the ranks must run their forward passes in step.
        own_generate: whether somebody has set `generate` on the model.

    Raises:
        ValueError: says what to do.
    """
    if in_step:
        raise ValueError(
            f"engine: generate under ZeRO-3 or FSDP does not sample in stages; sample with vllm, {_REMEDY}"
        )
    if own_generate:
        raise ValueError(f"model: its own generate does not sample in stages; leave it out, {_REMEDY}")
