"""Which checkpoint of a run to continue from, and which to forget."""

import json
import re
import shutil
from pathlib import Path

TRAINER_STATE = "trainer_state.json"


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end. The trainer state is its last file, and must be readable."""
    try:
        state = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and "global_step" in state


def checkpoint_to_resume(resume: str, output_dir: str | Path) -> str | None:
    """The checkpoint that `resume` stands for: `auto` (newest complete one, if any), `newest`, `never`, or a path.

    Raises:
        ValueError: the path holds no complete checkpoint, or there is none where the newest is asked for.
    """
    if resume == "never":
        return None
    if resume not in ("auto", "newest"):
        if not is_complete(Path(resume)):
            raise ValueError(
                f"resume: {resume!r} holds no complete checkpoint; give auto, never or a checkpoint's folder"
            )
        return resume
    complete = complete_checkpoints(output_dir)
    if resume == "newest" and not complete:
        raise ValueError(f"resume_from_checkpoint: {str(output_dir)!r} holds no complete checkpoint; leave it out")
    return str(complete[max(complete)]) if complete else None


def step_of(checkpoint: str | Path) -> int:
    """The optimizer step in the name of a checkpoint's folder."""
    return int(Path(checkpoint).name.removeprefix("checkpoint-"))


def has_optimizer(checkpoint: str | Path) -> bool:
    """Whether a complete checkpoint holds more than weights; Trainer saves states of its generators with optimizers."""
    return any(Path(checkpoint).glob("rng_state*"))


def complete_checkpoints(output_dir: str | Path) -> dict[int, Path]:
    """The complete checkpoints of a run by their step."""
    return {step: folder for step, folder in _checkpoints(output_dir).items() if is_complete(folder)}


def is_last(checkpoint: str, max_steps: int, num_train_epochs: float) -> bool:
    """Whether a complete checkpoint is that of a run's last step, so that nothing is left to train."""
    state = json.loads((Path(checkpoint) / TRAINER_STATE).read_text(encoding="utf-8"))
    if max_steps > 0:
        return state["global_step"] >= max_steps
    return (state.get("epoch") or 0) >= num_train_epochs


def drop_later_checkpoints(output_dir: str | Path, step: int) -> None:
    """Remove what was being written of checkpoints after `step`, where training starts again; -1 means all.

    Complete ones have been set aside before: they would be newer than those to come.
    """
    for later, folder in _checkpoints(output_dir).items():
        if later > step:
            (folder / TRAINER_STATE).unlink(missing_ok=True)  # first, so that half a folder is no complete checkpoint
            shutil.rmtree(folder)


def _checkpoints(output_dir: str | Path) -> dict[int, Path]:
    return {
        int(match.group(1)): folder
        for folder in Path(output_dir).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", folder.name)) and folder.is_dir()
    }
