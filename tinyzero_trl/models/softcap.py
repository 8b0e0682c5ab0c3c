"""Models that cap the logits of their attention, such as Gemma 2, and what leaves the cap out without a word.

That is `sdpa` before Transformers 5.24, whose default it is for these models, and continuous batching in every version.
`eager`, `flex_attention` and FlashAttention 2 cap.
"""

from transformers import PreTrainedConfig


def attention_with_softcap(config: PreTrainedConfig, asked: str | None) -> str | None:
    """The attention to load a model with: `asked`, or eager where the default could leave out the model's cap.

    Args:
        config: of the model.
        asked: an attention of Transformers, or None for its default.

    Raises:
        ValueError: `asked` leaves out the cap.
    """
    check_softcap(config, asked or "")
    return "eager" if asked is None and _softcap_of(config) else asked


def check_softcap(config: PreTrainedConfig, attention: str, *, continuous_batching: bool = False) -> None:
    """Whether what is to attend knows the model's cap, if it has one.

    Raises:
        ValueError: names field, value and remedy.
    """
    if (softcap := _softcap_of(config)) is None:
        return
    without = f"leaves out attn_logit_softcapping {softcap:g} of the model"
    if attention == "sdpa":
        raise ValueError(f"attn_implementation: 'sdpa' {without}; set it to eager")
    if continuous_batching:
        raise ValueError(f"use_transformers_continuous_batching: true {without}; set it to false")


def _softcap_of(config: PreTrainedConfig) -> float | None:
    softcap: float | None = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return softcap
