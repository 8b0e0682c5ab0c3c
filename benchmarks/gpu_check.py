"""What this project does on one GPU, in one command, without a network, in at most eight minutes.

    python benchmarks/gpu_check.py                          # writes results/gpu/CARD.json and results/gpu/CARD.log
    python benchmarks/gpu_check.py --size tiny --out X      # proves on a CPU that every part runs

The parts, each a process of its own (`benchmarks/gpu/`): `tinyzero-trl doctor`; PyTorch's attention kernel against its
reference; the optimization phase of stock TRL, ours padded, and ours without padding, on an untrained model of
Qwen2.5-0.5B's shape; `countdown_tiny` with `generate`, with windows per group, and with vLLM; tokens a second of the
engines; weights handed over to vLLM. A part that fails, cannot run here, or would not end in time is written down with
its reason, and the next one goes on. JSON and log are written after every part.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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
    found = [Part("doctor", ("-m", "tinyzero_trl.commands.main", "doctor"), 20, 60)]
    found.append(Part("attention", ("-m", "gpu.attention"), 10, 40))
    for scenario in ("long_tail", "flat"):
        for trainer in ("stock", "padded", "padding_free"):
            command = ("-m", "gpu.optimization", "--trainer", trainer, "--scenario", scenario)
            found.append(Part(f"optimization/{scenario}/{trainer}", command, 20, 60))
    found.append(_training("transformers", "signal"))
    short, long = ((256, 512), (64, 2048)) if size == "full" else ((8, 12), (4, 16))
    found += [_sampling(engine, *short) for engine in ("generate", "ours", "continuous", "vllm")]
    found.append(Part("handover", ("-m", "gpu.handover"), 50, 90))
    found += [_training("vllm", "signal"), _training("transformers", "group")]
    return found + [_sampling(engine, *long) for engine in ("ours", "continuous", "vllm", "generate")]


def _training(engine: str, strategy: str) -> Part:
    command = ("-m", "gpu.training", "--engine", engine, "--strategy", strategy)
    return Part(f"training/{strategy}/{engine}", command, 60, 120)


def _sampling(engine: str, rows: int, limit: int) -> Part:
    command = ("-m", "gpu.sampling", "--engine", engine, "--rows", str(rows), "--limit", str(limit))
    return Part(f"sampling/{rows}x{limit}/{engine}", command, 60 if engine == "vllm" else 15 + limit // 40, 90)


def main() -> None:
    """Run the parts and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--only", default="", help="parts whose name begins so, several divided by commas")
    parser.add_argument("--out", type=Path, help="file to write, without .json; left out: results/gpu/CARD")
    args = parser.parse_args()
    if args.out is None and not torch.cuda.is_available():
        parser.error("--out: there is no CUDA device to name the file after; give a name, and --size tiny")
    wanted = tuple(args.only.split(","))
    check([part for part in parts(args.size) if part.name.startswith(wanted)], args.size, args.out, 60 * args.minutes)


def check(chosen: list[Part], size: str, out: Path | None, seconds: float) -> None:
    """Run one part after the other until `seconds` have passed."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    out = out or ROOT / "results" / "gpu" / re.sub(r"\W+", "-", card.lower()).strip("-")
    out.parent.mkdir(parents=True, exist_ok=True)
    target, log_file = Path(f"{out}.json"), Path(f"{out}.log")
    log_file.write_text("")
    result: dict[str, Any] = {"card": card, "size": size, "environment": describe_environment(), "parts": {}}
    end = time.monotonic() + seconds
    for part in chosen:
        left = end - time.monotonic()
        started = time.monotonic()
        if left < (part.expected_s if size == "full" else 0):
            found: dict[str, Any] = {"skipped": f"{left:.0f} s were left, and it takes about {part.expected_s} s"}
        else:
            found = run(part, size, log_file, min(left, part.limit_s) if size == "full" else left)
        result["parts"][part.name] = found | {"wall_s": round(time.monotonic() - started, 1)}
        target.write_text(json.dumps(result, indent=2) + "\n")
        print(f"{part.name}: {json.dumps(result['parts'][part.name])}", flush=True)


def run(part: Part, size: str, log_file: Path, limit_s: float) -> dict[str, Any]:
    """What a part has written, or why it has written nothing; its own output goes to the log."""
    paths = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    environment = os.environ | offline | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
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
