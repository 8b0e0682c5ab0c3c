"""The writer alone: a part that fails ends its checkpoint, which is removed; what is no fault of the disk is raised."""

from pathlib import Path

import pytest
from transformers import TrainerState

from tinyzero_trl.training.saving import checkpoint_writer
from tinyzero_trl.training.saving.checkpoint_writer import CheckpointError, CheckpointWriter


def write(writer: CheckpointWriter, folder: Path, fails_at: str | None = None, error: Exception | None = None) -> None:
    def part(name: str) -> None:
        if name == fails_at:
            raise error or OSError(28, "No space left on device")
        (folder / name).write_text(name)

    def save() -> None:
        folder.mkdir()
        part("before")
        writer.write_part(lambda: part("model"))
        writer.write_part(lambda: part("random numbers"))
        part("trainer state")

    writer.write(save, folder, state=TrainerState(), parts=2)


def test_a_checkpoint_whose_parts_are_written_stays(tmp_path: Path) -> None:
    writer = CheckpointWriter(is_main=True)
    write(writer, tmp_path / "checkpoint-1")
    assert writer.error is None
    assert len(list((tmp_path / "checkpoint-1").iterdir())) == 4


@pytest.mark.parametrize("fails_at", ["before", "model", "random numbers", "trainer state"])
def test_one_that_fails_anywhere_is_removed_and_the_next_is_written(
    tmp_path: Path, fails_at: str, caplog: pytest.LogCaptureFixture
) -> None:
    writer = CheckpointWriter(is_main=True)
    write(writer, tmp_path / "checkpoint-1", fails_at)
    assert writer.error == "[Errno 28] No space left on device"
    assert not (tmp_path / "checkpoint-1").exists()
    assert "checkpoint-1 could not be written ([Errno 28] No space left on device) and was removed" in caplog.text
    write(writer, tmp_path / "checkpoint-2")
    assert writer.error is None


def test_every_rank_raises_what_failed_on_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_writer, "gather_object", lambda own: [*own, "the disk of rank 1"])
    writer, written = CheckpointWriter(is_main=False), []

    def save() -> None:
        with pytest.raises(CheckpointError, match="the disk of rank 1"):
            writer.write_part(lambda: written.append("model"))
        raise CheckpointError("the disk of rank 1")

    writer.write(save, tmp_path, state=TrainerState(), parts=2)
    assert (written, writer.error) == (["model"], "the disk of rank 1")
    assert tmp_path.exists(), "removing is the work of the main process"


def test_outside_of_a_checkpoint_an_error_is_an_error(tmp_path: Path) -> None:
    writer = CheckpointWriter(is_main=True)
    with pytest.raises(OSError, match="No space"):
        writer.write_part(lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(KeyError):
        write(writer, tmp_path / "checkpoint-1", "before", KeyError("a fault of the program"))
