"""The reference model that `sync_ref_model` moves towards the trained model: part of every checkpoint, to the bit."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_model, save_model

REFERENCE = "reference_model.safetensors"


class SyncedReference:
    """Saves and restores the reference; TRL would load the weights that training began with, and go on from those.

    A reference whose weights lie on several ranks (FSDP, DeepSpeed ZeRO-3) is not saved, and a run with one is not
    resumed.
    """

    def __init__(self, reference: Any, accelerator: Accelerator, *, is_synced: bool) -> None:
        """Takes the trainer's `ref_model`, which may be None, and whether `sync_ref_model` is on."""
        self._reference = reference if is_synced else None
        self._accelerator = accelerator
        plugin = accelerator.state.deepspeed_plugin
        self._is_sharded = accelerator.distributed_type == DistributedType.FSDP or (
            plugin is not None and plugin.zero_stage == 3
        )

    def save(self, checkpoint: str | Path) -> None:
        """Write the reference into a checkpoint; one process writes what all of them hold."""
        if self._reference is None or self._is_sharded or not self._accelerator.is_main_process:
            return
        save_model(self._accelerator.unwrap_model(self._reference), str(Path(checkpoint) / REFERENCE))

    def load(self, checkpoint: str | Path | None) -> None:
        """Restore the reference of a checkpoint that training continues from; None is a new run.

        Raises:
            ValueError: the checkpoint has none.
        """
        if self._reference is None or checkpoint is None:
            return
        file = saved_reference(checkpoint, is_sharded=self._is_sharded)
        model = self._accelerator.unwrap_model(self._reference)
        load_model(model, str(file), device=str(self._accelerator.device))


def saved_reference(checkpoint: str | Path, *, is_sharded: bool) -> Path:
    """The file with the reference of a checkpoint.

    Raises:
        ValueError: there is none; it is not saved where its weights lie on several ranks.
    """
    file = Path(checkpoint) / REFERENCE
    if is_sharded or not file.exists():
        why = "is not saved under FSDP and DeepSpeed ZeRO-3" if is_sharded else f"is not in {str(checkpoint)!r}"
        raise ValueError(
            f"sync_ref_model: the synchronised reference {why}, so that the run would continue with another one; "
            "start a new run"
        )
    return file
