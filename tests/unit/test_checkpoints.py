"""Which checkpoint a run continues from: the newest that was written to its end."""

import json
from pathlib import Path

import pytest

from tinyzero_trl.runs.checkpoints import checkpoint_to_resume, drop_later_checkpoints, is_complete, is_last


def write(folder: Path, state: str | None = None, step: int = 0) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    if state != "missing":
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}) if state is None else state)
    return folder


def test_auto_takes_the_newest_by_number(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        write(tmp_path / f"checkpoint-{step}", step=step)
    assert checkpoint_to_resume("auto", tmp_path) == str(tmp_path / "checkpoint-100")


@pytest.mark.parametrize("state", ["missing", "", '{"global_step": 3', "[]", "{}", "\x00\x00"])
def test_a_half_written_checkpoint_is_never_picked_up(tmp_path: Path, state: str) -> None:
    half = write(tmp_path / "checkpoint-30", state)
    assert not is_complete(half)
    assert checkpoint_to_resume("auto", tmp_path) is None
    write(tmp_path / "checkpoint-10", step=10)
    assert checkpoint_to_resume("auto", tmp_path) == str(tmp_path / "checkpoint-10")
    with pytest.raises(
        ValueError, match=r"^resume: .*checkpoint-30' holds no complete checkpoint; give auto, never or"
    ):
        checkpoint_to_resume(str(half), tmp_path)


def test_other_folders_are_passed_over(tmp_path: Path) -> None:
    for name in ("checkpoint-best", "checkpoint-7.old", "old-checkpoint-7"):
        write(tmp_path / name)
    (tmp_path / "checkpoint-8").write_text("a file")
    assert checkpoint_to_resume("auto", tmp_path) is None
    assert checkpoint_to_resume("auto", tmp_path / "missing") is None


def test_never_and_a_path_are_taken_at_their_word(tmp_path: Path) -> None:
    older = write(tmp_path / "run" / "checkpoint-5", step=5)
    write(tmp_path / "run" / "checkpoint-6", step=6)
    assert checkpoint_to_resume("never", tmp_path / "run") is None
    assert checkpoint_to_resume(str(older), tmp_path / "run") == str(older)
    with pytest.raises(ValueError, match=r"^resume: 'always' holds no complete checkpoint"):
        checkpoint_to_resume("always", tmp_path / "run")


@pytest.mark.parametrize(
    ("max_steps", "epochs", "last"), [(8, 1, True), (7, 9, True), (9, 1, False), (-1, 1.5, True), (-1, 2, False)]
)
def test_the_last_checkpoint_is_known_by_steps_or_else_by_epochs(tmp_path, max_steps, epochs, last) -> None:
    folder = write(tmp_path / "checkpoint-8", json.dumps({"global_step": 8, "epoch": 1.5}))
    assert is_last(str(folder), max_steps, epochs) is last


def test_what_is_later_than_the_start_of_a_run_is_forgotten(tmp_path: Path) -> None:
    """Otherwise a run that starts over and is killed early would go on from a checkpoint of its former life."""
    for step in (5, 10, 15):
        write(tmp_path / f"checkpoint-{step}", step=step)
    write(tmp_path / "checkpoint-20", "missing")
    write(tmp_path / "checkpoint-best")
    drop_later_checkpoints(tmp_path, 10)
    left = {"checkpoint-5", "checkpoint-10", "checkpoint-best"}
    assert {folder.name for folder in tmp_path.iterdir()} == left
    drop_later_checkpoints(tmp_path, -1)
    assert [folder.name for folder in tmp_path.iterdir()] == ["checkpoint-best"]
    drop_later_checkpoints(tmp_path / "nowhere", -1)
