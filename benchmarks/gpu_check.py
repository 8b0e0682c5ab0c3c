"""What this project does on one GPU, in one command, without a network, in at most eight minutes.

    python benchmarks/gpu_check.py                          # writes results/gpu/CARD.json and results/gpu/CARD.log
    python benchmarks/gpu_check.py --add                    # goes on with the parts that the file lacks
    python benchmarks/gpu_check.py --size tiny --out X      # proves on a CPU that every part runs

The parts, each a process of its own (`benchmarks/gpu/`): `tinyzero-trl doctor`; PyTorch's attention kernel against its
reference; how often a token waits for the device; the optimization phase of stock TRL, ours padded, and ours without
padding, on an untrained model of Qwen2.5-0.5B's shape; `countdown_tiny` with each engine, and with windows per group;
tokens a second of the engines; weights handed over to vLLM. A part that fails, cannot run here, or would not end in
time is written down with its reason, and the next one goes on. JSON and log are written after every part; `engine` in
the JSON file says what to choose without vLLM.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu.advice import engine_advice

from tinyzero_trl.runs.environment import describe_environment

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Part:
    """A program with its arguments.

    Attributes:
        name: in the JSON file.
        command: arguments of Python; the size and the file of the result are added for `gpu.*`.
        expected_s: seconds that it is thought to take on an H100; with less time left it is left out.
        limit_s: seconds after which it is ended.
    """

    name: str
    command: tuple[str, ...]
    expected_s: int
    limit_s: int


def parts(size: str) -> list[Part]:
    """All parts, the most important first."""
    short, long = ((256, 512), (64, 2048)) if size == "full" else ((8, 12), (4, 16))
    return [
        Part("doctor", ("-m", "tinyzero_trl.commands.main", "doctor"), 20, 90),
        Part("attention", ("-m", "gpu.attention"), 10, 40),
        Part("synchronisations", ("-m", "gpu.synchronisations"), 15, 40),
        *_optimization("long_tail"),
        _training("transformers", "signal"),
        *(_sampling(engine, *short) for engine in ("generate", "ours", "continuous", "vllm")),
        _training("continuous", "signal"),
        Part("handover", ("-m", "gpu.handover"), 50, 90),
        _training("vllm", "signal"),
        *(_sampling(engine, *long) for engine in ("ours", "continuous")),
        *_optimization("flat"),
        _training("transformers", "group"),
        *(_sampling(engine, *long) for engine in ("vllm", "generate")),
    ]


def _optimization(scenario: str) -> list[Part]:
    def part(trainer: str) -> Part:
        command = ("-m", "gpu.optimization", "--trainer", trainer, "--scenario", scenario)
        return Part(f"optimization/{scenario}/{trainer}", command, 20, 60)

    return [part(trainer) for trainer in ("stock", "padded", "padding_free")]


def _training(engine: str, strategy: str) -> Part:
    command = ("-m", "gpu.training", "--engine", engine, "--strategy", strategy)
    return Part(f"training/{strategy}/{engine}", command, 60, 150)


def _sampling(engine: str, rows: int, limit: int) -> Part:
    command = ("-m", "gpu.sampling", "--engine", engine, "--rows", str(rows), "--limit", str(limit))
    return Part(f"sampling/{rows}x{limit}/{engine}", command, 60 if engine == "vllm" else 15 + limit // 40, 90)


def main() -> None:
    """Run the parts and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--only", default="", help="parts whose name begins so, several divided by commas")
    parser.add_argument("--add", action="store_true", help="keep what the file has, run the parts that it lacks")
    parser.add_argument("--out", type=Path, help="file to write, without .json; left out: results/gpu/CARD")
    args = parser.parse_args()
    if args.out is None and not torch.cuda.is_available():
        parser.error("--out: there is no CUDA device to name the file after; give a name, and --size tiny")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # else the part that runs goes on
    wanted = tuple(args.only.split(","))
    chosen = [part for part in parts(args.size) if part.name.startswith(wanted)]
    check(chosen, args.size, args.out, 60 * args.minutes, add=args.add)


def check(chosen: list[Part], size: str, out: Path | None, seconds: float, *, add: bool = False) -> None:
    """Run one part after the other until `seconds` have passed; `add` keeps what the file has measured before."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    out = out or ROOT / "results" / "gpu" / re.sub(r"\W+", "-", card.lower()).strip("-")
    out.parent.mkdir(parents=True, exist_ok=True)
    target, log_file = Path(f"{out}.json"), Path(f"{out}.log")
    result: dict[str, Any] = {"card": card, "size": size, "environment": describe_environment(), "parts": {}}
    if add and target.exists():
        result["parts"] = measured_before(target, result)
    else:
        log_file.write_text("")
    end = time.monotonic() + seconds
    for part in [part for part in chosen if part.name not in result["parts"]]:
        left = end - time.monotonic()
        started = time.monotonic()
        if left < (part.expected_s if size == "full" else 0):
            found: dict[str, Any] = {"skipped": f"{left:.0f} s were left, and it takes about {part.expected_s} s"}
        else:
            found = run(part, size, log_file, min(left, part.limit_s) if size == "full" else left)
        found |= {"wall_s": round(time.monotonic() - started, 1), "git_commit": result["environment"]["git_commit"]}
        result["parts"][part.name] = found
        result["engine"] = engine_advice(result["parts"])
        target.write_text(json.dumps(result, indent=2) + "\n")
        print(f"{part.name}: {json.dumps(result['parts'][part.name])}", flush=True)
    print(f"engine: {json.dumps(result.get('engine', {}))}")


def measured_before(target: Path, now: dict[str, Any]) -> dict[str, Any]:
    """The parts of an earlier result that hold figures.

    Raises:
        SystemExit: the earlier result is of another card, size or set of versions.
    """
    earlier = json.loads(target.read_text())
    for name, before, after in (
        *((name, earlier[name], now[name]) for name in ("card", "size")),
        ("set of versions", earlier["environment"]["versions"], now["environment"]["versions"]),
    ):
        if before != after:
            sys.exit(f"--add: {target} is of another {name}; leave out --add, or give another --out")
    return {name: found for name, found in earlier["parts"].items() if not {"skipped", "failed"} & found.keys()}


def run(part: Part, size: str, log_file: Path, limit_s: float) -> dict[str, Any]:
    """What a part has written, or why it has written nothing; its own output goes to the log."""
    paths = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    # TRL refuses a process that sees several cards; the first of those to be seen is the one that is named
    one_card = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
    environment = os.environ | offline | one_card | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with tempfile.TemporaryDirectory() as folder, log_file.open("a") as log:
        log.write(f"\n=== {part.name}: python {' '.join(part.command)}\n")
        log.flush()
        written = Path(folder, "result.json")
        is_ours = part.command[1].startswith("gpu.")
        command = [sys.executable, *part.command, *(("--size", size, "--out", str(written)) if is_ours else ())]
        streams: dict[str, Any] = {"stdout": log, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        try:
            done = subprocess.run(command, env=environment, cwd=folder, timeout=max(1.0, limit_s), **streams)
        except subprocess.TimeoutExpired:
            return {"failed": f"it was ended after {limit_s:.0f} s"}
        if done.returncode < 0:  # the last line of the log does not know
            return {"failed": f"it was killed by {signal.Signals(-done.returncode).name}"}
        if done.returncode:
            return {"failed": f"status {done.returncode}: {last_line(log_file)}"}
        found: dict[str, Any] = json.loads(written.read_text()) if is_ours else {"in_log": True}
        return found


def last_line(log_file: Path) -> str:
    """The last line that says something: that of the exception, as a rule."""
    lines = [line.strip() for line in log_file.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


if __name__ == "__main__":
    main()
