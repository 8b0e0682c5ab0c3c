"""Which checkpoint of a run to continue from, and which to forget."""

import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tinyzero_trl.runs.json_lines import is_finite_number

TRAINER_STATE = "trainer_state.json"

SEARCHED = ("auto", "newest")
"""Values of `resume` for which the run's folder is searched for a checkpoint."""

_NEVER_EMPTY = {".json", ".pt", ".pth", ".bin", ".safetensors"}
_DEEPSPEED = "global_step*"  # it keeps the states of model, optimizer and scheduler in a folder of its own
_WEIGHTS = ("model*.safetensors", "adapter_model*", "*/adapter_model*", "pytorch_model*")


def fault_of(checkpoint: Path) -> str | None:
    """Why a checkpoint does not count, such as "optimizer.pt is empty"; None if it is complete.

    A complete one was written to its end, and has lost nothing since that training goes on from. A checkpoint of
    weights alone (`save_only_model`) is complete, too. Nothing is unpickled.
    """
    if not checkpoint.is_dir():
        return "there is no such folder"
    if trainer_state(checkpoint) is None:
        return f"{TRAINER_STATE} is missing or cut"
    return next(_faults(checkpoint), None)


def checkpoint_to_resume(resume: str, output_dir: str | Path) -> str | None:
    """The checkpoint that `resume` stands for: `auto` (newest complete one, if any), `newest`, `never`, or a path.

    Raises:
        ValueError: the path holds no complete checkpoint, or there is none where the newest is asked for.
    """
    if resume == "never":
        return None
    if resume not in SEARCHED:
        if fault := fault_of(Path(resume)):
            raise ValueError(
                f"resume: {resume!r} holds no complete checkpoint ({fault}); give auto, never or a checkpoint's folder"
            )
        return resume
    found = next((folder for folder in _newest_first(output_dir) if fault_of(folder) is None), None)
    if resume == "newest" and found is None:
        raise ValueError(f"resume_from_checkpoint: {str(output_dir)!r} holds no complete checkpoint; leave it out")
    return None if found is None else str(found)


def passed_over(output_dir: str | Path, newest: str | None) -> dict[Path, str]:
    """The checkpoints of a run that are newer than its newest complete one, each with why it does not count."""
    newer = takewhile(lambda folder: str(folder) != newest, _newest_first(output_dir))
    return {folder: fault for folder in newer if (fault := fault_of(folder))}


def trainer_state(checkpoint: str | Path) -> dict[str, Any] | None:
    """The trainer state of a checkpoint, its last file; None where the checkpoint was not written to its end."""
    try:
        state = json.loads((Path(checkpoint) / TRAINER_STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(state, dict) or type(state.get("global_step")) is not int:
        return None
    epoch = state.get("epoch")
    return state if epoch is None or is_finite_number(epoch) else None


def is_of_run(checkpoint: str | Path, output_dir: str | Path) -> bool:
    """Whether a checkpoint lies in the folder of a run."""
    return Path(checkpoint).resolve().parent == Path(output_dir).resolve()


def step_of(checkpoint: str | Path) -> int:
    """The optimizer step in the name of a checkpoint's folder."""
    return int(Path(checkpoint).name.removeprefix("checkpoint-"))


def has_optimizer(checkpoint: str | Path) -> bool:
    """Whether a complete checkpoint holds more than weights; Trainer saves states of its generators with optimizers."""
    return any(Path(checkpoint).glob("rng_state*"))


def written_checkpoints(output_dir: str | Path) -> dict[int, Path]:
    """The checkpoints of a run that were written to their end, by their step, whatever they have lost since."""
    return {step: folder for step, folder in _checkpoints(output_dir).items() if trainer_state(folder)}


def is_last(checkpoint: str, max_steps: int, num_train_epochs: float) -> bool:
    """Whether a checkpoint with a trainer state is that of a run's last step, so that nothing is left to train."""
    state = trainer_state(checkpoint)
    assert state is not None, "it was written to its end"
    if max_steps > 0:
        return state["global_step"] >= max_steps
    return (state.get("epoch") or 0) >= num_train_epochs


def drop_later_checkpoints(output_dir: str | Path, step: int) -> None:
    """Remove what was being written of checkpoints after `step`, where training starts again; -1 means all.

    Those that were written to their end have been set aside before: they would be newer than those to come.
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


def _newest_first(output_dir: str | Path) -> list[Path]:
    return [folder for _, folder in sorted(_checkpoints(output_dir).items(), reverse=True)]


def _faults(checkpoint: Path) -> Iterator[str]:
    """What of a checkpoint is empty, damaged or missing."""
    files = sorted(each for each in checkpoint.rglob("*") if each.suffix in _NEVER_EMPTY and each.is_file())
    yield from (f"{file.relative_to(checkpoint)} is empty" for file in files if file.stat().st_size == 0)
    yield from (f"{file.name} is damaged" for file in files if file.parent == checkpoint and _is_damaged(file))
    yield from (f"{name} is missing" for name in _missing(checkpoint))


def _is_damaged(file: Path) -> bool:
    """Whether a file is cut or cannot be loaded; the numbers in it are not read."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="np"):
                pass  # it compares the file's length with what its header says
        elif file.name.endswith(".safetensors.index.json"):
            _shards(file)
        elif file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix in (".pt", ".pth"):
            with zipfile.ZipFile(file) as archive:
                for entry in archive.infolist():
                    if entry.compress_type != zipfile.ZIP_STORED:  # PyTorch packs nothing, and 6 MB may unpack to 6 GB
                        return True
                    if "/data/" not in entry.filename:  # those are the tensors
                        archive.read(entry)  # compares it with its checksum
    except PermissionError:
        raise
    except (SafetensorError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError, OSError):
        return True  # RuntimeError and OSError, too, are what a flipped bit makes of a zip file's directory
    return False


def _shards(index: Path) -> set[str]:
    """The files of weights that an index names, each in the index's own folder.

    Raises:
        ValueError: the index is none.
    """
    content = json.loads(index.read_text(encoding="utf-8"))
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise ValueError(f"{index.name} names no files of weights")
    return set(shards.values())


def _missing(checkpoint: Path) -> Iterator[str]:
    """Files without which a checkpoint cannot be continued, or not to the same result."""

    def holds(*patterns: str) -> bool:
        return any(any(checkpoint.glob(pattern)) for pattern in patterns)

    if not holds(*_WEIGHTS, _DEEPSPEED):
        yield "model.safetensors"
    for index in checkpoint.glob("*.safetensors.index.json"):
        yield from sorted(shard for shard in _shards(index) if not (checkpoint / shard).is_file())
    if not holds("optimizer*", "scheduler.pt", "rng_state*", _DEEPSPEED):
        return  # weights alone
    if not holds("optimizer*", _DEEPSPEED):  # FSDP writes optimizer.bin, or a folder optimizer_0
        yield "optimizer.pt"
    if not holds("scheduler.pt", _DEEPSPEED):
        yield "scheduler.pt"
    if not holds("rng_state*"):
        yield "rng_state.pth"
    found = (re.fullmatch(r"rng_state_(\d+)\.pth", file.name) for file in checkpoint.glob("rng_state_*.pth"))
    ranks = {int(match.group(1)) for match in found if match}  # those of one machine, with save_on_each_node
    yield from (
        f"rng_state_{rank}.pth" for rank in range(min(ranks, default=0), max(ranks, default=0)) if rank not in ranks
    )
