"""How a recipe's model is loaded: precision and attention."""

import logging
from typing import Any

import torch
from transformers.utils import is_flash_attn_2_available
from trl import ModelConfig

from tinyzero_trl.config import AdaptiveGRPOConfig

logger = logging.getLogger(__name__)


def model_init_kwargs(model: ModelConfig, training: AdaptiveGRPOConfig) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained`; remote code stays off.

    Without `attn_implementation`, FlashAttention 2 is taken where it is installed and the model runs in half
    precision, and Transformers' own choice (sdpa) otherwise; the choice is logged once.
    """
    half = training.bf16 or training.fp16 or model.dtype in ("bfloat16", "float16")
    attention = model.attn_implementation
    if attention is None and half and torch.cuda.is_available() and is_flash_attn_2_available():
        attention = "flash_attention_2"
    logger.info("attention: %s", attention or "sdpa (Transformers' default)")
    given: Any = training.model_init_kwargs or {}
    return {
        **given,
        "dtype": model.dtype,
        "attn_implementation": attention,
        "revision": model.model_revision,
        "trust_remote_code": False,
    }
