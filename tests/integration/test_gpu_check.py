"""The check of one GPU: on a CPU it runs at `--size tiny`, and says what it cannot measure."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_check
import gpu_table
import pytest
from gpu.advice import engine_advice
from seen_completions import tokens_in_passes

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_parts_run_on_a_cpu_or_say_why_not(tmp_path: Path) -> None:
    parts = "attention,optimization/long_tail/padding_free,sampling/8x12/ours,sampling/8x12/continuous,handover"
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
    optimization = found["optimization/long_tail/padding_free"]
    assert optimization["optimize_s"] > 0
    flops = optimization["tflops"] * optimization["optimize_s"] * 1e12
    assert flops == pytest.approx(6 * optimization["parameters"] * optimization["tokens"])
    assert found["sampling/8x12/ours"]["tokens_per_s"] > 0
    ratio = found["sampling/8x12/continuous"]["tokens_per_s"] / found["sampling/8x12/ours"]["tokens_per_s"]
    assert result["engine"]["continuous_over_ours"] == {"sampling/8x12": ratio}
    table = gpu_table.table(result)
    assert "| attention | skipped: the kernel needs a CUDA device |" in table
    assert table.count("\n") == 2 + len(found)


@pytest.mark.parametrize(("visible", "one"), [(None, "0"), ("2,3", "2"), ("GPU-1f", "GPU-1f"), ("", "")])
def test_a_part_sees_one_card(visible: str | None, one: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    asks = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    gpu_check.run(gpu_check.Part("asks", ("-c", asks), 1, 60), "full", log := tmp_path / "log", 60.0)
    assert log.read_text().splitlines()[-1] == repr(one)


def test_a_part_that_fails_or_hangs_or_comes_too_late_costs_the_others_nothing(tmp_path: Path) -> None:
    parts = [
        gpu_check.Part("broken", ("-c", "raise ValueError('no such thing')"), 1, 60),
        gpu_check.Part("killed", ("-c", "import os; os.kill(os.getpid(), 9)"), 1, 60),
        gpu_check.Part("endless", ("-c", "import time; time.sleep(60)"), 1, 1),
        gpu_check.Part("late", ("-c", ""), 10_000, 60),
        gpu_check.Part("good", ("-c", ""), 1, 60),
    ]
    gpu_check.check(parts, "full", tmp_path / "card", 60.0)
    found = json.loads((tmp_path / "card.json").read_text())["parts"]
    assert found["broken"]["failed"] == "status 1: ValueError: no such thing"
    assert found["killed"]["failed"] == "it was killed by SIGKILL"
    assert found["endless"]["failed"] == "it was ended after 1 s"
    assert "it takes about 10000 s" in found["late"]["skipped"]
    assert found["good"]["in_log"]


def test_a_second_call_adds_what_the_first_one_lacks(tmp_path: Path) -> None:
    def parts(broken: str) -> list[gpu_check.Part]:
        return [gpu_check.Part("good", ("-c", ""), 1, 60), gpu_check.Part("broken", ("-c", broken), 1, 60)]

    def found() -> dict[str, Any]:
        return json.loads((tmp_path / "card.json").read_text())["parts"]

    gpu_check.check(parts("raise ValueError"), "full", tmp_path / "card", 60.0)
    first = found()
    gpu_check.check(parts(""), "full", tmp_path / "card", 60.0, add=True)
    assert found()["good"] == first["good"] and "failed" in first["broken"] and found()["broken"]["in_log"]
    assert "ValueError" in (tmp_path / "card.log").read_text(), "the log goes on, too"
    with pytest.raises(SystemExit, match="is of another size; leave out --add, or give another --out"):
        gpu_check.check(parts(""), "tiny", tmp_path / "card", 60.0, add=True)


@pytest.mark.parametrize(
    ("ratios", "conclusion"),
    [
        ((1.2, 3.0), "use_transformers_continuous_batching: true, it was faster at every load"),
        ((0.5, 1.05), "engine: transformers, continuous batching was faster at no load"),
        ((0.5, 1.2), "engine: transformers, unless your load is like one at which continuous batching was faster"),
    ],
)
def test_the_engine_to_choose_follows_from_the_speeds(ratios: tuple[float, float], conclusion: str) -> None:
    parts = {
        "sampling/256x512/ours": {"tokens_per_s": 100.0},
        "sampling/256x512/continuous": {"tokens_per_s": 100.0 * ratios[0]},
        "sampling/64x2048/ours": {"skipped": "10 s were left, and it takes about 66 s"},
        "sampling/64x2048/continuous": {"tokens_per_s": 1.0},
        "training/signal/transformers": {"tokens_per_s": 50.0},
        "training/signal/continuous": {"tokens_per_s": 50.0 * ratios[1]},
        "optimization/flat/stock": {"optimize_s": 1.0},
    }
    advice = engine_advice(parts)
    assert advice["continuous_over_ours"] == pytest.approx(
        {"sampling/256x512": ratios[0], "training/signal": ratios[1]}
    )
    assert advice["without_vllm"] == conclusion
    assert engine_advice({"sampling/256x512/ours": {"tokens_per_s": 100.0}}) == {}


def test_every_part_is_a_program_that_exists() -> None:
    for size in ("full", "tiny"):
        for part in gpu_check.parts(size):
            module = part.command[1]
            assert (
                module == "tinyzero_trl.commands.main"
                or (ROOT / "benchmarks" / f"{module.replace('.', '/')}.py").exists()
            )


def test_tokens_are_counted_that_a_pass_takes() -> None:
    """Prompts too, and of ours no group whose rewards are equal."""
    rows, rewards = [10 + 3, 10 + 5, 20 + 1, 20 + 2], [0.0, 1.0, 0.0, 0.0]
    assert tokens_in_passes(rows, rewards, 2, leaves_out=False) == 71
    assert tokens_in_passes(rows, rewards, 2, leaves_out=True) == 28


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
        "training/signal/vllm": {
            **{"seconds": 61.0, "tokens_per_s": 2000.0, "accuracy": [0.125, 0.25], "windows": [256.0, 192.0]}
        },
        "synchronisations": {"ours_per_token": 1.0, "generate_per_token": 2.0},
        "sampling/256x512/vllm": {"tokens_per_s": 12345.0},
        "handover": {"gaps": [{"before": 0.5, "after": 0.01}]},
    }
    engine = {"continuous_over_ours": {"sampling/256x512": 1.5}, "without_vllm": "choose this"}
    assert gpu_table.table({"card": "NVIDIA H100", "parts": parts, "engine": engine}).splitlines() == [
        "| NVIDIA H100 | figures |",
        "| --- | --- |",
        "| optimization/flat/stock | 2.00 s, 1.00 x stock, 100 TFLOP/s (10 % of the peak), 20.0 GiB, planned 22.0 |",
        "| optimization/flat/padded | 1.50 s, 0.75 x stock, 133 TFLOP/s |",
        "| training/signal/vllm | 61 s, 2,000 tokens/s in rollouts, accuracy 12.5 % -> 25.0 %, windows 256 192 |",
        "| synchronisations | 1.00 for a token, 2.00 with `generate` |",
        "| sampling/256x512/vllm | 12,345 tokens/s |",
        "| handover | largest gap of a log-probability 0.01, before the hand-over 0.5 |",
        "| continuous batching over ours | sampling/256x512 1.50 x; without vLLM: choose this |",
    ]
