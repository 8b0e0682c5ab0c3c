"""Whether there is a reference model that `sync_ref_model` can move, and whether checkpoints hold it."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from tinyzero_trl.training.saving.synced_reference import saved_reference

logger = logging.getLogger(__name__)


def check_synced_reference(training: Any, *, has_adapter: bool) -> None:
    """Refuse what TRL refuses once the model is loaded.

    Args:
        training: configuration of the run.
        has_adapter: whether an adapter is trained, whose reference is the model under it.

    Raises:
        ValueError: nothing can be synchronised.
    """
    if not training.sync_ref_model:
        return
    if training.beta == 0:
        raise ValueError(
            "sync_ref_model: true has no reference model to move with beta 0; set it to false, or raise beta"
        )
    if has_adapter:
        raise ValueError(
            "sync_ref_model: true has no effect with an adapter, because the reference is the model without the "
            "adapter; set it to false, or train without an adapter"
        )


def check_saved_reference(training: Any, checkpoint: str | None) -> None:
    """Refuse a checkpoint without the reference; warn where none will hold it.

    Args:
        training: configuration of the run.
        checkpoint: from which it continues; None for a new run.

    Raises:
        ValueError: the checkpoint does not hold what was synchronised.
    """
    if not training.sync_ref_model:
        return
    is_sharded = shards_weights(training)
    if checkpoint is not None:
        saved_reference(checkpoint, is_sharded=is_sharded)
    elif is_sharded and training.save_strategy != "no":
        logger.warning(
            "sync_ref_model: under FSDP and DeepSpeed ZeRO-3 no checkpoint holds the synchronised reference, so that "
            "this run cannot be continued; launch with ddp, zero1 or zero2, or set sync_ref_model to false"
        )


def shards_weights(training: Any, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether weights will lie on several ranks: by FSDP, or by the third stage of DeepSpeed's ZeRO."""
    by_fsdp = bool(training.fsdp) or environment.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    plugin = training.deepspeed_plugin
    return by_fsdp or (plugin is not None and plugin.zero_stage == 3)
