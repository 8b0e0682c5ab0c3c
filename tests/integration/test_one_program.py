"""One program in a folder: the second stops at once, and a finished run is left as it is."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.training import ROOT, write_recipe
from tinyzero_trl.commands import train
from tinyzero_trl.commands.ablation.execution import LOCK as ABLATE_LOCK
from tinyzero_trl.commands.main import main
from tinyzero_trl.runs.lock import LOCK, locked

pytestmark = pytest.mark.usefixtures("deaf_to_signals")

HOLD = """
import sys, time
from pathlib import Path
from tinyzero_trl.runs.lock import locked
with locked(Path(sys.argv[1]), "output_dir", name=sys.argv[2]):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def another_program(folder: Path, name: str = LOCK) -> Iterator[subprocess.Popen]:
    """A process that holds the lock of a folder."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, str(folder), name]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        try:
            yield other
        finally:
            other.kill()


def files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_lock_ends_with_its_process_even_if_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    with another_program(folder) as other:
        with pytest.raises(ValueError, match=r"^output_dir: '.*runs/a' is in use by another program; wait until"):
            locked(folder, "output_dir").__enter__()
        other.send_signal(signal.SIGKILL)
        other.wait()
        with locked(folder, "output_dir"):
            assert (folder / LOCK).exists()
    assert list(folder.iterdir()) == []


def test_what_the_lock_made_and_nobody_used_is_removed(tmp_path: Path) -> None:
    with locked(tmp_path / "runs" / "a", "output_dir"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_where_the_file_system_has_no_locks_a_run_starts_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked(tmp_path, "output_dir"):
        pass
    assert "has no locks; start no other program there" in caplog.text


def test_a_second_training_program_stops_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    with another_program(tmp_path / "run"):
        before = files(tmp_path / "run")
        assert train.main(["--config", str(recipe), "--seed", "1"]) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert line.startswith(f"error: output_dir: {str(tmp_path / 'run')!r} is in use by another program; ")
        assert files(tmp_path / "run") == before


def test_a_second_grid_stops_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text("seed: 0")
    runs = {"a": {"recipe": str(tmp_path / "recipe.yaml")}}
    grid = {"output": str(tmp_path / "grid"), "seeds": [0, 1], "launch": ["no-such-program"], "runs": runs}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    with another_program(tmp_path / "grid" / "a" / "seed_0", ABLATE_LOCK):
        assert main(["ablate", str(tmp_path / "grid.yaml")]) == 2
        assert capsys.readouterr().err.endswith(
            "seed_0' is in use by another program; wait until it ends, or name another folder\n"
        )
        assert not (tmp_path / "grid" / "a" / "seed_1").exists()


def test_a_second_evaluation_stops_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with another_program(tmp_path / "out"):
        assert main(["eval", "--model", "embedded", "--data", "generate", "--out", str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.startswith("tinyzero-trl eval: out: ")


@pytest.mark.slow
def test_a_finished_run_without_checkpoints_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(write_recipe(tmp_path, save_strategy="no", max_steps=2, eval_steps=2))]
    assert train.main(arguments) == 0
    before = files(tmp_path / "run")
    assert not any(LOCK in file.name for file in before)
    capsys.readouterr()
    assert train.main(arguments) == 0
    assert " is finished: for another run give another --output_dir, or --resume never" in capsys.readouterr().out
    for other, culprit in (
        (["--seed", "8"], "run' is of another recipe (seed: 7 there, 8 here); give --resume never, or another"),
        (["--max_steps", "4"], "is finished and holds no checkpoint, from which it could be made longer"),
        (["--push_to_hub", "true"], "push_to_hub: "),
    ):
        assert train.main([*arguments, *other]) == 2
        assert culprit in capsys.readouterr().err
    assert files(tmp_path / "run") == before
    assert train.main([*arguments, "--seed", "8", "--resume", "never"]) == 0
    aside = tmp_path / "run" / "_earlier" / "1"
    for name in ("summary.json", "metrics.jsonl", "eval.jsonl", "config.yaml"):
        assert (aside / name).read_bytes() == before[tmp_path / "run" / name]
