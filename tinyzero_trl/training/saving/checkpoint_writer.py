"""A checkpoint is written by all ranks or by none, and one that failed is removed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from safetensors import SafetensorError
from transformers import TrainerState

from tinyzero_trl.messages import text_of

logger = get_logger(__name__)

# What a full disk looks like from Python, from torch's writer (a RuntimeError), and from safetensors.
_WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)


# The devices of several ranks on CPUs are named cpu:0, and Trainer asks torch to load their optimizer state there: a
# place that torch does not know by that name. 15 is a priority that torch leaves free.
torch.serialization.register_package(
    15, lambda storage: None, lambda storage, location: storage if location.startswith("cpu:") else None
)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, on this rank or on another."""


class CheckpointWriter:
    """Lets the ranks agree on each part of a checkpoint, so that no rank waits for one that failed.

    The trainer state, which makes a checkpoint complete, is written when every rank has written its part. A checkpoint
    that cannot be written is removed, and training goes on without it.

    Attributes:
        error: why the latest checkpoint is missing; None if it is there.
    """

    def __init__(self, *, is_main: bool) -> None:
        """Set `is_main` on the one process that removes and warns."""
        self.error: str | None = None
        self._is_main = is_main
        self._parts_due = 0  # while a checkpoint is written: on how many parts the ranks have yet to agree

    def write(self, save: Callable[[], None], folder: Path, *, state: TrainerState, parts: int) -> None:
        """Write the checkpoint `folder`; on all ranks, and `error` is the same on all of them.

        Args:
            save: writes the checkpoint, and calls `write_part` for each of its parts.
            folder: where it is written.
            state: the trainer's, whose best checkpoint stays the former one if this one cannot be written.
            parts: how many parts `save` has.
        """
        self._parts_due, best = parts, state.best_model_checkpoint
        error = _error_of(save)
        if self._parts_due:  # this rank failed before a part at which the others wait
            self._parts_due = 0
            _agree(error)
        self.error = _agree(error)
        if self.error is None:
            return
        state.best_model_checkpoint = best  # Trainer has named this one as soon as its model was there
        if self._is_main:
            shutil.rmtree(folder, ignore_errors=True)
            logger.warning(
                f"{folder.name} could not be written ({self.error}) and was removed. The last complete checkpoint "
                "stays, and training goes on until the next is due; free some space"
            )

    def write_part(self, save: Callable[[], None]) -> None:
        """Write one part of a checkpoint, on all ranks or on none: Trainer may let them wait for each other next.

        Outside of a checkpoint this is `save()`.

        Raises:
            CheckpointError: on every rank, if any of them failed; nothing more of this checkpoint is due then.
        """
        if not self._parts_due:
            return save()
        error = _error_of(save)
        self._parts_due -= 1
        if (reason := _agree(error)) is not None:
            self._parts_due = 0
            raise CheckpointError(reason)


def _agree(error: Exception | None) -> str | None:
    """The first rank's error, on every rank."""
    reasons: list[str | None] = gather_object([text_of(error) if error else None])
    return next((reason for reason in reasons if reason is not None), None)


def _error_of(save: Callable[[], None]) -> Exception | None:
    try:
        save()
    except _WRITE_ERRORS as error:
        return error
    return None
