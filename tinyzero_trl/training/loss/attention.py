"""Which attention the passes of the loss have, so that rows need no padding."""

import logging

import torch
from trl import GRPOTrainer

from tinyzero_trl.models.softcap import check_softcap
from tinyzero_trl.models.varlen import HALF, TORCH_VARLEN, why_no_varlen
from tinyzero_trl.training.loss.traits import can_pack_rows
from tinyzero_trl.training.trl_internals import attention_of

logger = logging.getLogger(__name__)

_MIXED_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}


def attend_without_padding(trainer: GRPOTrainer, wanted: bool | None) -> None:
    """Let model and reference attend by `TORCH_VARLEN` in place of SDPA where rows are to lie end to end.

    Unasked, that is on a CUDA device in half precision, where PyTorch's kernel gives what its reference gives.
    Another attention than SDPA, such as FlashAttention 2, stays. The log says which it is.

    Args:
        trainer: whose `__init__` of TRL has run.
        wanted: the field `padding_free`.

    Raises:
        ValueError: training or rollouts would leave out the model's softcap.
    """
    models = [trainer.accelerator.unwrap_model(model) for model in (trainer.model, trainer.ref_model) if model]
    config, device = models[0].config, trainer.accelerator.device
    check_softcap(config, attention_of(config), continuous_batching=trainer.use_transformers_continuous_batching)
    if wanted is False or attention_of(config) != "sdpa" or not can_pack_rows(trainer):
        return
    weights: torch.dtype = next(models[0].parameters()).dtype
    dtype = _MIXED_PRECISION.get(trainer.accelerator.mixed_precision, weights)
    if wanted is None and (device.type != "cuda" or dtype not in HALF):
        return
    if reason := why_no_varlen(config, dtype, device):
        (logger.warning if wanted else logger.info)(f"attention of training passes: sdpa, because {reason}")
        return
    for model in models:
        model.set_attn_implementation(TORCH_VARLEN)
    logger.info("attention of training passes: PyTorch's varlen_attn, rows end to end without padding")
