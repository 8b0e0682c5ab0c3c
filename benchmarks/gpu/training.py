"""`countdown_tiny` for a few steps: windows move, evaluation is at full length, and what it costs."""

import argparse
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rollout_engines import MEMORY_SHARE

from gpu.part import Size, SkippedError, now, run_part
from tinyzero_trl.commands import train
from tinyzero_trl.models.loading import default_device
from tinyzero_trl.runs.records import read_run

ENGINES = ("transformers", "continuous", "vllm")


def measure(args: argparse.Namespace, size: Size) -> dict[str, Any]:
    """Windows, lengths, accuracy and seconds from the records of the run; the first rollout warms up."""
    if args.engine == "vllm" and find_spec("vllm") is None:
        raise SkippedError("vLLM is not installed")
    if args.engine == "vllm" and default_device().type != "cuda":
        raise SkippedError("vLLM on a CPU is run by the tests")
    folder = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    fields = {**size.train, "output_dir": folder, "report_to": "none", "save_strategy": "no"}
    fields |= {"use_cpu": default_device().type != "cuda", "window_strategy": args.strategy}
    fields["engine"] = "vllm" if args.engine == "vllm" else "transformers"
    if args.engine == "continuous":
        fields["use_transformers_continuous_batching"] = True
        fields["transformers_continuous_batching_config"] = json.dumps({"max_memory_percent": MEMORY_SHARE})
    if args.engine == "vllm":
        longest = size.train.get("max_completion_length", 1024)
        fields |= {"vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.3, "vllm_max_model_length": longest + 256}
    started = now()
    status = train.main(["--config", "countdown_tiny", *(f"--{name}={value}" for name, value in fields.items())])
    seconds = now() - started
    if status:
        raise RuntimeError(f"the run ended with status {status}")
    run = read_run(folder)
    warm = run.metrics[1:]
    return {
        "seconds": seconds,
        "tokens_per_s": sum(each["tokens/response_total"] for each in warm)
        / sum(each["time/rollout_s"] for each in warm),
        "steps": len(run.metrics),
        "windows": [line["adaptive_window/current_window"] for line in run.metrics],
        "longest": [line["completions/max_length"] for line in run.metrics],
        "accuracy": [line["eval/acc"] for line in run.evals],
    }


if __name__ == "__main__":
    run_part(
        __doc__,
        measure,
        engine={"choices": ENGINES, "required": True},
        strategy={"choices": ("signal", "group"), "required": True},
    )
