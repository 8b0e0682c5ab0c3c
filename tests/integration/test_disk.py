"""A folder that cannot be written is found before anything is loaded; a disk that fills up ends a run with one line."""

import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.support.training import write_recipe
from tinyzero_trl.commands import train
from tinyzero_trl.runs.checkpoints import checkpoint_to_resume
from tinyzero_trl.runs.records import RunRecords
from tinyzero_trl.training.preflight import disk
from tinyzero_trl.training.preflight.disk import check_disk

pytestmark = pytest.mark.usefixtures("deaf_to_signals")


def training(folder: Path, save_strategy: str = "steps") -> SimpleNamespace:
    return SimpleNamespace(output_dir=str(folder), save_strategy=save_strategy)


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    check_disk(training(tmp_path / "not" / "yet"), torch.nn.Linear(2, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^output_dir: '.*file/run' cannot be written \(Not a directory\); free some"):
        check_disk(training(tmp_path / "file" / "run"))


def test_a_full_disk_is_refused(tmp_path: Path) -> None:
    """A limit on the size of files looks like a full disk to whoever writes them, root included."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
    try:
        with pytest.raises(ValueError, match=r"^output_dir: .* cannot be written \(File too large\); free some space"):
            check_disk(training(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_room_for_less_than_one_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(1000, 1000, bias=False)  # 4 MB, and 8 MB for the moments
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: SimpleNamespace(free=11_000_000))
    with pytest.raises(ValueError, match=r"^output_dir: .* has 11 MB left, and one checkpoint takes about 12 MB; free"):
        check_disk(training(tmp_path), model)
    check_disk(training(tmp_path, save_strategy="no"), model)
    model.weight.requires_grad_(False)
    check_disk(training(tmp_path), model)


@pytest.mark.parametrize(
    ("free", "needed", "texts"),
    [
        (11_000_000, 12_000_000, ("11 MB", "12 MB")),
        (11_990_000, 12_000_000, ("11.99 MB", "12.00 MB")),
        (2_000_000, 31_000_000_000, ("0 GB", "31 GB")),
        (0, 900, ("0 bytes", "900 bytes")),
        (999_999_999, 1_000_000_000, ("0.999999999 GB", "1.000000000 GB")),
    ],
)
def test_two_sizes_that_differ_look_different(free: int, needed: int, texts: tuple[str, str]) -> None:
    assert disk._sizes(free, needed) == texts


def test_a_disk_without_room_leaves_no_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    assert start(write_recipe(tmp_path)) == 2
    assert " has 1 kB left, and one checkpoint takes about " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def start(recipe: Path, *arguments: str) -> int:
    return train.main(["--config", str(recipe), *arguments])


def test_the_program_says_so_in_one_line_and_ends_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert start(recipe, "--output_dir", str(recipe / "run")) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: output_dir: '{recipe}/run' cannot be written (Not a directory)")


def test_a_disk_that_fills_up_ends_a_run_with_status_1_and_a_checkpoint_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    append, recipe = RunRecords.append_metrics, write_recipe(tmp_path)

    def append_until_full(self: RunRecords, step: int, *arguments) -> None:
        if step == 5:
            raise OSError(28, "No space left on device", str(self.path / "metrics.jsonl"))
        append(self, step, *arguments)

    with monkeypatch.context() as full:
        full.setattr(RunRecords, "append_metrics", append_until_full)
        assert start(recipe) == 1
    errors = capsys.readouterr().err.splitlines()
    [line] = [line for line in errors if line.startswith("error: ")]
    assert line == f"error: '{tmp_path / 'run' / 'metrics.jsonl'}': no space left on device; free some space"
    assert checkpoint_to_resume("auto", tmp_path / "run") == str(tmp_path / "run" / "checkpoint-3")
    assert start(recipe) == 0
