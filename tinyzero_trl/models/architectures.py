"""For which models the savings are exact.

Rows may leave a batch while it is generated, lose their padding and lie end to end only where nothing but attention
looks from one token to another, and attention at their distance alone. Recurrent and convolutional layers, sparse
attention, positions that are learnt and adapters that act by place are something else: there, TRL and Transformers do
as they always do.
"""

from collections.abc import Iterator, Mapping
from typing import Any

PLAIN_DECODERS = frozenset(
    {
        *("arcee", "cohere", "cohere2", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text", "glm", "glm4"),
        *("granite", "granitemoe", "llama", "mistral", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe"),
        *("phi", "phi3"),
        *("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2"),
    }
)
"""Values of `model_type`, each compared with stock in `tests/integration/test_architectures.py`."""

_LENGTH_DEPENDENT = {"dynamic", "longrope"}


def is_plain_decoder(model: Any) -> bool:
    """Whether a row's logits depend on its own tokens and their distances alone, whatever it shares a pass with."""
    config = model.config
    return config.model_type in PLAIN_DECODERS and not depends_on_width(config) and not _acts_by_place(model)


def depends_on_width(config: Any) -> bool:
    """Whether rotary positions are scaled by the length of the whole pass (`rope_type` dynamic or longrope)."""
    return not _LENGTH_DEPENDENT.isdisjoint(_rope_types(getattr(config.get_text_config(), "rope_parameters", None)))


def _acts_by_place(model: Any) -> bool:
    """Whether an adapter of PEFT is a prompt, which stands before the padding, or is invoked by a token of the row."""
    adapter = getattr(model, "active_peft_config", None)
    if adapter is None:
        return False
    return adapter.is_prompt_learning or getattr(adapter, "alora_invocation_tokens", None) is not None


def _rope_types(parameters: Any) -> Iterator[str]:
    """Every `rope_type`; some models have parameters for each type of layer."""
    if isinstance(parameters, Mapping):
        yield str(parameters.get("rope_type"))
        for inner in parameters.values():
            yield from _rope_types(inner)
