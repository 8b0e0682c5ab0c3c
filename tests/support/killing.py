"""Kill a run of the recipe program again and again, start it again, and compare its end with that of a run in peace.

    python -m tests.support.killing FOLDER --kills 20 --ranks 2 --strategy signal [--by SIGTERM]

Every rank is a fork of one process that has imported everything, so that a start takes a second and not twenty. The
signal comes at a random moment within the activity that it is aimed at, to one rank. After SIGKILL the others follow
within a tenth of a second; after SIGTERM or SIGINT all must agree to stop and exit with their own status. Prints what
was hit as JSON; status 1 if the ends differ.
"""

import argparse
import functools
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.support.training import write_recipe
from tinyzero_trl.commands import train
from tinyzero_trl.runs.checkpoints import fault_of
from tinyzero_trl.runs.records import RunRecords, read_run
from tinyzero_trl.training.callbacks.safe_points import EXIT_STOPPED_BY_SIGNAL
from tinyzero_trl.training.rollout.group_stages import StagedRollout
from tinyzero_trl.training.trainer import AdaptiveGRPOTrainer

# Two optimizer steps to a rollout of two micro-batches; checkpoints fall due in the middle of rollouts, epochs end
# between them, and the last rollout is cut short.
SETTINGS = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 2,
    "num_iterations": 2,
    "max_steps": 13,
    "save_steps": 3,
    "save_total_limit": 2,
    "eval_steps": 4,
}
LONGEST_S = 180

# Where a signal can be aimed at: the method that does it, and about how many seconds one call takes.
ACTIVITIES = {
    "starting up": (AdaptiveGRPOTrainer, "__init__", 0.1),
    "rollout": (AdaptiveGRPOTrainer, "_generate_and_score_completions", 0.05),
    "between stages": (StagedRollout, "go_on", 0.0003),
    "optimizer step": (AdaptiveGRPOTrainer, "training_step", 0.01),
    "evaluation": (AdaptiveGRPOTrainer, "evaluate", 0.1),
    "checkpoint": (AdaptiveGRPOTrainer, "_save_checkpoint", 0.03),
    "records": (RunRecords, "append_metrics", 0.0003),
}


@dataclass(frozen=True)
class Aim:
    """Send the signal `by` to `rank`, `delay_s` seconds into the `call`-th time that it is at `activity`."""

    by: signal.Signals
    activity: str
    call: int
    rank: int
    delay_s: float


def take_aim(aim: Aim, report: Path) -> None:
    """Wrap the activities of this process, so that the signal hits the one that is aimed at."""
    under_way: list[str] = []
    calls: Counter[str] = Counter()

    def hit() -> None:
        # An evaluation generates too, and an optimizer step may begin with a rollout.
        innermost = under_way[-1] if under_way else "in between"
        report.write_text("evaluation" if "evaluation" in under_way else innermost)
        os.kill(os.getpid(), aim.by)

    def watched(activity: str, method: Any) -> Any:
        @functools.wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            calls[activity] += 1
            if (activity, calls[activity]) == (aim.activity, aim.call):
                threading.Timer(aim.delay_s, hit).start()
            under_way.append(activity)
            try:
                return method(*arguments, **options)
            finally:
                under_way.pop()

        return call

    for activity, (owner, name, _) in ACTIVITIES.items():
        setattr(owner, name, watched(activity, getattr(owner, name)))


def start(recipe: Path, ranks: int, aim: Aim | None, report: Path) -> list[int]:
    """Fork the ranks of one launch of the recipe program, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(ranks):
        if child := os.fork():
            children.append(child)
            continue
        status = 70
        try:
            with recipe.with_suffix(f".{rank}.log").open("a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            if ranks > 1:
                meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": ranks}
                local = {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks, "ACCELERATE_USE_CPU": 1}
                os.environ.update({name: str(value) for name, value in {**meeting, **local}.items()})
            if aim is not None and aim.rank == rank:
                take_aim(aim, report)
            status = train.main(["--config", str(recipe)])
            assert not torch.distributed.is_initialized(), "its threads may abort a process that ends"
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return children


def wait(children: list[int], linger_s: float) -> bool:
    """Wait for a launch. True if all ranks ended well, False if they were stopped, or one killed and so all."""
    left, codes, deadline = set(children), set(), time.monotonic() + LONGEST_S
    try:
        while left:
            for child in tuple(left):
                gone, status = os.waitpid(child, os.WNOHANG)
                if gone:
                    left.discard(child)
                    codes.add(os.waitstatus_to_exitcode(status))
            if -signal.SIGKILL in codes:
                time.sleep(linger_s)
                return False
            assert time.monotonic() < deadline, f"ranks hang, others ended with {codes}"
            time.sleep(0.005)
    finally:
        for child in left:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert codes in ({0}, {EXIT_STOPPED_BY_SIGNAL}), f"exit statuses {codes}; see the logs beside the recipe"
    return codes == {0}


def end_of(folder: Path) -> dict[str, Any]:
    """All that a run leaves, less its clocks."""
    run = read_run(folder)
    clocks = ("time", "step_time", "profiling", "seconds")

    def timeless(record: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in record.items() if not name.startswith(clocks)}

    return {
        "weights": (folder / "model.safetensors").read_bytes(),
        "windows": [
            (line.get("adaptive_window/current_window"), line.get("group_window/stopped_frac")) for line in run.metrics
        ],
        "metrics": [timeless(line) for line in run.metrics],
        "evaluations": [timeless(line) for line in run.evals],
        "completions": run.completions,
        "summary": timeless(run.summary or {}) | {"recipe": None},
        "checkpoints": sorted(file.name for file in folder.glob("checkpoint-*")),
    }


def half_written(folder: Path) -> list[Path]:
    """Checkpoints without an end."""
    return [each for each in folder.glob("checkpoint-*") if fault_of(each)]


def kill_and_compare(
    folder: Path, *, by: signal.Signals, strategy: str, ranks: int, kills: int, seed: int
) -> dict[str, Any]:
    """Hit one run, or several if the first is done too soon, `kills` times; each must end as one in peace."""
    chance = random.Random(seed)
    # Nothing is agreed upon before training: a launcher would pass the signal on to the other ranks.
    activities = [each for each in ACTIVITIES if each != "starting up" or by == signal.SIGKILL or ranks == 1]
    if strategy != "group":
        activities.remove("between stages")
    settings = SETTINGS | {"window_strategy": strategy}
    settings["per_device_train_batch_size"] = SETTINGS["per_device_train_batch_size"] // ranks

    def launch(name: str, aim: Aim | None = None) -> bool:
        recipe = write_recipe(folder, name, **settings)
        return wait(start(recipe, ranks, aim, folder / "hit"), chance.uniform(0, 0.1))

    assert launch("in_peace")
    expected = end_of(folder / "in_peace")
    hit: Counter[str] = Counter()
    differing: list[str] = []
    runs = 0
    while hit.total() < kills and not differing:
        runs, name, done = runs + 1, f"killed_{runs}", False
        while not done:
            aim = None
            if hit.total() < kills:
                # Mostly what has been hit least so far.
                activity = min(activities, key=lambda each: (hit[each], chance.random()))
                call, rank = chance.choice((1, 1, 2, 3)), chance.randrange(ranks)
                rank = 0 if activity == "records" else rank
                aim = Aim(by, activity, call, rank, chance.uniform(0, ACTIVITIES[activity][2]))
            done = launch(name, aim)
            if not done:
                hit[(folder / "hit").read_text()] += 1
                assert by == signal.SIGKILL or not half_written(folder / name), "a run stopped in good order is whole"
        found = end_of(folder / name)
        # Whoever is stopped in good order leaves a checkpoint where the run in peace has none.
        parts = expected.keys() - ({"checkpoints"} if by != signal.SIGKILL else {})
        differing = sorted(part for part in parts if found[part] != expected[part])
    windows = len({window for window in expected["windows"] if window[0] is not None})
    return {"hit": dict(hit), "runs": runs, "ranks": ranks, "windows": windows, "differing": differing}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="empty; keeps runs and logs")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--strategy", default="success", help="window_strategy of the run")
    parser.add_argument("--by", default="SIGKILL", choices=["SIGKILL", "SIGTERM", "SIGINT"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    options = {name: value for name, value in vars(given).items() if name not in ("folder", "by")}
    result = kill_and_compare(given.folder, by=signal.Signals[given.by], **options)
    print(json.dumps(result))
    return 1 if result["differing"] else 0


if __name__ == "__main__":
    sys.exit(main())
