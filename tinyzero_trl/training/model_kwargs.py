"""With which precision and attention a run loads its model."""

import logging
from typing import Any

import torch
from transformers.utils import is_flash_attn_2_available
from trl import ModelConfig

from tinyzero_trl.models.loading import SAFE
from tinyzero_trl.models.softcap import attention_with_softcap
from tinyzero_trl.training.config import AdaptiveGRPOConfig

logger = logging.getLogger(__name__)


def model_init_kwargs(model: ModelConfig, training: AdaptiveGRPOConfig, config: Any) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained`; remote code and pickled weights stay off.

    Without `attn_implementation`, FlashAttention 2 is taken where it is installed beside a GPU and the weights are in
    half precision (float32 weights meet it outside autocast, in generation, where it refuses them), and Transformers'
    own choice (sdpa, or eager for a model with a softcap) otherwise; the choice is logged once. Beside sdpa the passes
    of the loss may have an attention of their own (`loss/attention.py`).

    Args:
        model: what the recipe says of the model.
        training: the run's configuration.
        config: of the model itself.

    Raises:
        ValueError: the recipe asks for an attention that leaves out the model's softcap.
    """
    half = model.dtype in ("bfloat16", "float16")
    attention = model.attn_implementation
    if attention is None and half and torch.cuda.is_available() and is_flash_attn_2_available():
        attention = "flash_attention_2"
    attention = attention_with_softcap(config, attention)
    if model.attn_implementation is None:
        logger.info("attention: %s", attention or "sdpa (Transformers' default)")
    given: Any = training.model_init_kwargs or {}
    return {
        **given,
        "dtype": model.dtype,
        "attn_implementation": attention,
        "revision": model.model_revision,
        **SAFE,
    }
