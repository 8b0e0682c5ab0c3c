"""What `ablate` does when it is told to stop, and what it says of runs that a signal has ended."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tinyzero_trl.commands.ablation.execution import run_grid
from tinyzero_trl.commands.ablation.grid import read_grid
from tinyzero_trl.commands.ablation.session import TrainingSessions

# Trains until it is told to stop, and saves then, which takes longer than its launcher lives; again ends it at once.
PROGRAM = """
import os, signal, sys, time
from tinyzero_trl.runs.records import RunRecords
folder = dict(zip(sys.argv, sys.argv[1:]))["--output_dir"]
def stop(number, frame):
    with open(folder + "/signals", "a") as signals:
        signals.write(signal.Signals(number).name + " ")
    if len(open(folder + "/signals").read().split()) > 1:
        os._exit(1)
    time.sleep(SAVING_S)
    open(folder + "/saved", "w").close()
    os._exit(75)
if os.path.exists(folder + "/saved"):
    RunRecords(folder).write_summary({})
    sys.exit()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
with open(folder + "/pid", "w") as pid:
    pid.write(str(os.getpid()))
os.rename(folder + "/pid", folder + "/trains")
time.sleep(60)
"""
# Passes no signal on, as accelerate's launcher of one process.
LAUNCHER = """
import subprocess, sys
command = [sys.executable, *sys.argv[1:]]
status = subprocess.Popen(command).wait()
if status:
    raise subprocess.CalledProcessError(status, command)
"""
KILLED_LAUNCHER = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, *sys.argv[1:]])
while not os.path.exists("runs/a/seed_0/trains"):
    time.sleep(0.1)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def write_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a grid of two runs of a program; the file lies in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    Path("tiny.yaml").write_text("seed: 0\n")
    Path("launcher.py").write_text(LAUNCHER)

    def write(program: str, *launcher: str, seeds: int = 2) -> Path:
        Path("train.py").write_text(program)
        launch = [sys.executable, *launcher, "train.py"]
        grid = {"output": "runs", "seeds": list(range(seeds)), "launch": launch, "runs": {"a": {"recipe": "tiny.yaml"}}}
        Path("grid.yaml").write_text(yaml.safe_dump(grid))
        return Path("grid.yaml")

    return write


def wait_for(file: Path) -> None:
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end, f"{file} is not written"
        time.sleep(0.05)


def lives(file: Path) -> bool:
    """Whether the process whose number is in a file is there; a zombie is not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", file.read_text()], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def has_ended(file: Path) -> bool:
    """Whether a process ends; one that has closed its files is there for a little more."""
    end = time.monotonic() + 5
    while lives(file) and time.monotonic() < end:
        time.sleep(0.05)
    return not lives(file)


@contextmanager
def ablate(grid: Path) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, once its first run trains."""
    command = [sys.executable, "-m", "tinyzero_trl.commands.main", "ablate", str(grid)]
    trains = Path("runs/a/seed_0/trains")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        try:
            wait_for(trains)
            yield program
        finally:
            program.kill()
            if trains.exists() and lives(trains):
                os.kill(int(trains.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("launcher", [(), ("launcher.py",)], ids=["alone", "launcher"])
@pytest.mark.parametrize(("told", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_training_is_told_once_and_waited_for(
    write_grid: Callable[..., Path], launcher: tuple[str, ...], told: signal.Signals, status: int
) -> None:
    folder = Path("runs/a/seed_0")
    with ablate(write_grid(PROGRAM.replace("SAVING_S", "2"), *launcher)) as program:
        program.send_signal(told)
        output, errors = program.communicate(timeout=60)
        assert program.returncode == status
        assert has_ended(folder / "trains")
    assert (folder / "saved").exists()
    assert (folder / "signals").read_text().split() == [told.name]
    assert output.splitlines() == ["[1/2] a, seed 0: training, see runs/a/seed_0/train.log"]
    assert errors.splitlines() == [
        f"{told.name}: waiting until a, seed 0 has stopped with a checkpoint; again stops it at once",
        f"tinyzero-trl ablate: stopped by {told.name}; to go on, give the same command",
    ]


def test_a_second_signal_is_handed_on_too(write_grid: Callable[..., Path]) -> None:
    folder = Path("runs/a/seed_0")
    with ablate(write_grid(PROGRAM.replace("SAVING_S", "60"), "launcher.py")) as program:
        program.send_signal(signal.SIGINT)
        wait_for(folder / "signals")
        program.send_signal(signal.SIGTERM)
        program.communicate(timeout=60)
        assert program.returncode == 130, "the first one counts"
        assert has_ended(folder / "trains")
    assert (folder / "signals").read_text().split() == ["SIGINT", "SIGTERM"]


def test_it_stops_in_order_where_nobody_reads_its_output_any_more(write_grid: Callable[..., Path]) -> None:
    with ablate(write_grid(PROGRAM.replace("SAVING_S", "1"), "launcher.py")) as program:
        for stream in (program.stdout, program.stderr):  # `| tee` ends by Ctrl-C as well
            assert stream is not None
            stream.close()
        program.send_signal(signal.SIGINT)
        assert program.wait(timeout=60) == 130
        assert has_ended(Path("runs/a/seed_0/trains"))
    assert Path("runs/a/seed_0/saved").exists()


def test_what_the_program_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with TrainingSessions() as sessions:
            os.kill(os.getpid(), signal.SIGHUP)
            assert sessions.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_suspended_grid_suspends_its_training(write_grid: Callable[..., Path]) -> None:
    trains = Path("runs/a/seed_0/trains")

    def state() -> str:
        return subprocess.run(["ps", "-o", "stat=", "-p", trains.read_text()], capture_output=True, text=True).stdout

    def wait_until(is_stopped: bool) -> None:
        end = time.monotonic() + 30
        while state().startswith("T") != is_stopped:
            assert time.monotonic() < end
            time.sleep(0.05)

    with ablate(write_grid(PROGRAM)) as program:
        program.send_signal(signal.SIGTSTP)
        wait_until(True)
        program.send_signal(signal.SIGCONT)
        wait_until(False)


def test_a_training_that_a_killed_launcher_leaves_is_told_to_stop(write_grid: Callable[..., Path]) -> None:
    Path("launcher.py").write_text(KILLED_LAUNCHER)
    lines: list[str] = []
    failed = run_grid(read_grid(write_grid(PROGRAM.replace("SAVING_S", "1"), "launcher.py", seeds=1)), lines.append)
    assert len(failed) == 1 and has_ended(Path("runs/a/seed_0/trains"))
    assert Path("runs/a/seed_0/signals").read_text().split() == ["SIGTERM"]
    assert "ended by SIGKILL after" in lines[-1]


def test_a_training_that_a_killed_ablate_has_left_is_named(write_grid: Callable[..., Path]) -> None:
    grid = write_grid(PROGRAM)
    with ablate(grid) as program:
        program.kill()
        program.wait()
        with pytest.raises(
            ValueError, match=r"seed_0/train\.log: a training program that an earlier ablate has started"
        ):
            run_grid(read_grid(grid), lambda line: None)


@pytest.mark.parametrize(
    ("program", "launcher", "says"),
    [
        (
            "import os; os.kill(os.getpid(), 9)",
            (),
            "ended by SIGKILL after 0 s, as the system does when memory runs out; give the same command again to go on",
        ),
        ("import os; os.kill(os.getpid(), 11)", (), "ended by SIGSEGV after 0 s; give the same command again to go on"),
        ("import os; os.kill(os.getpid(), 9)", ("launcher.py",), "ended by SIGKILL after"),
        ("import sys; sys.exit(137)", (), "ended by SIGKILL after"),  # as a shell says it
        (
            "import sys; print('SIGTERM: stopping with a checkpoint'); sys.exit(75)",
            (),
            "ended by SIGTERM after 0 s; give the same command again to go on",
        ),
        ("raise RuntimeError", (), "failed with exit status 1 after 0 s; see its log"),
        # PyTorch's launcher ends the other ranks, which say so
        (
            "import sys; print('SIGTERM: stopping\\nRoot Cause (first observed failure):\\n[0]:\\n  traceback : '"
            "'Signal 9 (SIGKILL) received by PID 7'); sys.exit(1)",
            (),
            "ended by SIGKILL after",
        ),
    ],
)
def test_how_a_run_ended_is_one_line(
    write_grid: Callable[..., Path], program: str, launcher: tuple[str, ...], says: str
) -> None:
    lines: list[str] = []
    run_grid(read_grid(write_grid(program, *launcher, seeds=1)), lines.append)
    assert len(lines) == 2
    assert lines[1].startswith("[1/1] a, seed 0: ")
    assert says in re.sub(r"after \d+ s", "after 0 s", lines[1])


def test_why_an_earlier_start_failed_is_not_said_of_a_later_one(write_grid: Callable[..., Path]) -> None:
    lines: list[str] = []
    run_grid(read_grid(write_grid("print('error: beta: -1 is too low'); raise SystemExit(2)", seeds=1)), lines.append)
    assert lines[-1] == "[1/1] a, seed 0: error: beta: -1 is too low"
    run_grid(read_grid(write_grid("raise SystemExit(3)", seeds=1)), lines.append)
    assert lines[-1].startswith("[1/1] a, seed 0: failed with exit status 3 after")
