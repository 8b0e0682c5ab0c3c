"""The check of one GPU: on a CPU it runs at `--size tiny`, and says what it cannot measure."""

import json
import subprocess
import sys
from pathlib import Path

import gpu_check
import gpu_table
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_parts_run_on_a_cpu_or_say_why_not(tmp_path: Path) -> None:
    parts = "attention,optimization/long_tail/padding_free,sampling/8x12/ours,handover"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu_check.py"),
        "--size",
        "tiny",
        "--out",
        str(tmp_path / "cpu"),
    ]
    done = subprocess.run([*command, "--only", parts], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "cpu.json").read_text())
    found = result["parts"]
    assert sorted(found) == sorted(parts.split(","))
    assert found["attention"]["skipped"] == "the kernel needs a CUDA device"
    assert "skipped" in found["handover"]
    assert found["optimization/long_tail/padding_free"]["optimize_s"] > 0
    assert found["sampling/8x12/ours"]["tokens_per_s"] > 0
    table = gpu_table.table(result)
    assert "| attention | skipped: the kernel needs a CUDA device |" in table
    assert table.count("\n") == 1 + len(found)


def test_a_part_that_fails_or_hangs_or_comes_too_late_costs_the_others_nothing(tmp_path: Path) -> None:
    parts = [
        gpu_check.Part("broken", ("-c", "raise ValueError('no such thing')"), 1, 60),
        gpu_check.Part("endless", ("-c", "import time; time.sleep(60)"), 1, 1),
        gpu_check.Part("late", ("-c", ""), 10_000, 60),
        gpu_check.Part("good", ("-c", ""), 1, 60),
    ]
    gpu_check.check(parts, "full", tmp_path / "card", 60.0)
    found = json.loads((tmp_path / "card.json").read_text())["parts"]
    assert found["broken"]["failed"] == "status 1: ValueError: no such thing"
    assert found["endless"]["failed"] == "it was ended after 1 s"
    assert "it takes about 10000 s" in found["late"]["skipped"]
    assert found["good"]["in_log"]


def test_every_part_is_a_program_that_exists() -> None:
    for size in ("full", "tiny"):
        for part in gpu_check.parts(size):
            module = part.command[1]
            assert (
                module == "tinyzero_trl.commands.main"
                or (ROOT / "benchmarks" / f"{module.replace('.', '/')}.py").exists()
            )


def test_figures_of_a_card_are_rows_of_a_table() -> None:
    parts = {
        "optimization/flat/stock": {
            "optimize_s": 2.0,
            "tflops": 100.0,
            "mfu": 0.1,
            "peak_gib": 20.0,
            "planned_gib": 22.0,
        },
        "optimization/flat/padded": {"optimize_s": 1.5, "tflops": 133.0},
        "training/signal/vllm": {"seconds": 61.0, "accuracy": [0.125, 0.25], "windows": [256.0, 192.0]},
        "sampling/256x512/vllm": {"tokens_per_s": 12345.0},
        "handover": {"gaps": [{"before": 0.5, "after": 0.01}]},
    }
    assert gpu_table.table({"card": "NVIDIA H100", "parts": parts}).splitlines() == [
        "| NVIDIA H100 | figures |",
        "| --- | --- |",
        "| optimization/flat/stock | 2.00 s, 1.00 x stock, 100 TFLOP/s (10 % of the peak), 20.0 GiB, planned 22.0 |",
        "| optimization/flat/padded | 1.50 s, 0.75 x stock, 133 TFLOP/s |",
        "| training/signal/vllm | 61 s, accuracy 12.5 % -> 25.0 %, windows 256 192 |",
        "| sampling/256x512/vllm | 12,345 tokens/s |",
        "| handover | largest gap of a log-probability 0.01, before the hand-over 0.5 |",
    ]
