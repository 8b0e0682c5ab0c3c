"""Stock `trl.GRPOTrainer` and ours, in turn: the same model, problems, seeds and completions; time and memory.

    python benchmarks/against_trl.py --out results/against_trl.json

Both sample with `generate`. Where a completion ends and what it earns is laid down by its place in the batch, so that
both train on the same lengths and rewards whatever the weights are:

- long_tail: mean length 0.38 of the maximum, half of the groups without variance in their rewards;
- flat: every completion at the maximum, every group mixed. No row can be left out or trimmed here.

Every measurement is a process of its own (a first step for warming up, then `--steps` measured ones), stock and ours
alternating, `--rounds` times. Ratios are ours over stock within a round, their median over rounds; times are medians.
Memory is the process's largest resident set above what it held before training, or the device's peak on CUDA.
"""

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

SCENARIOS = ("long_tail", "flat")
RATIOS = {"optimize_ratio": "optimize_s", "step_ratio": "step_s", "memory_ratio": "memory_bytes"}
FIGURES = ("rollout_s", "optimize_s", "step_s", "memory_bytes", "tokens_per_s", "optimize_tflops", "mfu")
TRAINERS = ("stock", "ours")


def main() -> None:
    args = parse_arguments()
    if args.worker:
        from measured_trainer import measure

        print(json.dumps(measure(args)))
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # else the process that measures goes on
    result: dict[str, Any] = {}
    for scenario in args.scenarios:
        rounds = [run_round(args, scenario) for _ in range(args.rounds)]
        result[scenario] = summarise(rounds)
        print(f"{scenario}: {json.dumps(result[scenario], indent=2)}", flush=True)
    from tinyzero_trl.runs.environment import describe_environment

    settings = {
        name: value for name, value in vars(args).items() if name not in ("out", "worker", "scenario", "profile")
    }
    result["environment"] = describe_environment() | {"settings": settings}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument(
        "--model", default="embedded", help="embedded, a path or id, or random:WIDTHxLAYERS for untrained weights"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="measured optimizer steps in each process")
    parser.add_argument("--rows", type=int, default=128, help="completions to an optimizer step")
    parser.add_argument("--micro-batch-rows", type=int, default=32, help="per_device_train_batch_size of both")
    parser.add_argument("--max-tokens-per-micro-batch", type=int, default=4096, help="ours only")
    parser.add_argument("--max-completion-length", type=int, default=400)
    parser.add_argument("--num-generations", type=int, default=8)
    parser.add_argument("--loss-type", default="dapo")
    parser.add_argument("--peak-tflops", type=float, help="of the device, for model FLOP utilisation")
    parser.add_argument("--profile", type=Path, help="in a worker: write the profile of its last step here")
    parser.add_argument("--worker", choices=TRAINERS, help="measure one trainer in this process and print JSON")
    parser.add_argument("--scenario", choices=SCENARIOS, default="long_tail", help="of a worker")
    args = parser.parse_args()
    groups = 2 * args.num_generations
    if args.rows % args.micro_batch_rows or args.rows % groups:
        parser.error(f"--rows: {args.rows} must be a multiple of --micro-batch-rows and of two groups ({groups})")
    return args


def run_round(args: argparse.Namespace, scenario: str) -> dict[str, dict[str, Any]]:
    """One process after the other, with the command line of this one."""
    figures = {}
    for trainer in TRAINERS:
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", trainer, "--scenario", scenario]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"the {trainer} trainer failed on {scenario}:\n{done.stderr[-4000:]}")
        figures[trainer] = json.loads(done.stdout.splitlines()[-1])
        print(f"{scenario} {trainer}: {json.dumps(figures[trainer])}", file=sys.stderr, flush=True)
    for same in ("lengths_digest", "first_rollout_digest"):
        if figures["stock"][same] != figures["ours"][same]:
            raise SystemExit(f"{scenario}: the trainers did not see the same completions ({same})")
    return figures


def summarise(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians over rounds; a ratio compares the two neighbours of a round."""
    paired = {
        ratio: [each["ours"][figure] / each["stock"][figure] for each in rounds] for ratio, figure in RATIOS.items()
    }
    by_trainer = {
        trainer: {
            name: median(each[trainer][name] for each in rounds) for name in FIGURES if name in rounds[0][trainer]
        }
        for trainer in TRAINERS
    }
    return {ratio: median(values) for ratio, values in paired.items()} | {"rounds": paired} | by_trainer


if __name__ == "__main__":
    main()
