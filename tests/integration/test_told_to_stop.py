"""Programs that start a training in a process of its own: told to stop alone, they leave none behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tinyzero_trl.runs.checkpoints import written_checkpoints
from tinyzero_trl.runs.records import is_finished, read_run

ROOT = Path(__file__).parents[2]
LONGEST_S = 180
pytestmark = pytest.mark.slow


def processes_with(word: str) -> dict[int, str]:
    """Number and command line of the processes that were given a word; zombies left out."""
    listed = subprocess.run(["ps", "-wweo", "pid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 2) for line in listed.splitlines())
    return {int(pid): text for pid, state, text in rows if word in text and not state.startswith("Z")}


def wait_until(happens: Callable[[], bool], program: subprocess.Popen[str]) -> None:
    end = time.monotonic() + LONGEST_S
    while not happens():
        assert program.poll() is None, program.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end_all(word: str) -> None:
    for number in processes_with(word):
        os.kill(number, signal.SIGKILL)


def test_a_grid_that_is_told_to_stop_saves_a_checkpoint_and_goes_on_by_the_same_command(tmp_path: Path) -> None:
    settings = {
        **{"report_to": "none", "train_size": 200, "test_size": 32, "eval_size": 32, "window_strategy": "fixed"},
        **{"max_completion_length": 32, "per_device_train_batch_size": 32, "max_steps": 12},
        **{"save_steps": 1000, "eval_steps": 1000},
    }
    runs = {"a": {"recipe": "countdown_tiny", "overrides": settings}}
    grid, folder = tmp_path / "grid.yaml", tmp_path / "runs" / "a" / "seed_0"
    grid.write_text(yaml.safe_dump({"output": str(tmp_path / "runs"), "seeds": [0], "runs": runs}))
    command = ("-m", "tinyzero_trl.commands.main", "ablate", str(grid))
    metrics = folder / "metrics.jsonl"
    try:
        with start(*command) as program:
            wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, program)
            program.terminate()
            _, errors = program.communicate(timeout=LONGEST_S)
        assert program.returncode == 143
        assert errors.splitlines()[-1] == "tinyzero-trl ablate: stopped by SIGTERM; to go on, give the same command"
        assert not processes_with(str(folder))
        [step] = written_checkpoints(folder)
        assert step < 12 and not is_finished(folder)
        with start(*command) as program:
            output, errors = program.communicate(timeout=LONGEST_S)
        assert program.returncode == 0, output + errors
        assert is_finished(folder)
        assert [row["step"] for row in read_run(folder).metrics] == list(range(1, 13))
    finally:
        end_all(str(folder))


@pytest.mark.parametrize(
    ("program", "child"),
    [
        (("against_trl.py", "--scenarios", "flat"), "--worker"),
        (("gpu_check.py", "--size", "tiny", "--only", "training/signal/transformers"), "gpu.training"),
    ],
    ids=["against_trl", "gpu_check"],
)
def test_a_benchmark_that_is_told_to_stop_ends_what_it_measures(
    tmp_path: Path, program: tuple[str, ...], child: str
) -> None:
    def children() -> list[int]:
        listed = subprocess.run(["ps", "-wwo", "pid=,args=", "--ppid", str(told.pid)], capture_output=True, text=True)
        return [int(line.split()[0]) for line in listed.stdout.splitlines() if child in line]

    name, *options = program
    with start(str(ROOT / "benchmarks" / name), *options, "--out", str(tmp_path / "out.json")) as told:
        wait_until(lambda: bool(children()), told)
        [measures] = children()
        told.terminate()
        told.communicate(timeout=LONGEST_S)
    assert told.returncode == 143
    still = subprocess.run(["ps", "-o", "stat=", "-p", str(measures)], capture_output=True, text=True).stdout
    assert not still.strip() or still.startswith("Z")
