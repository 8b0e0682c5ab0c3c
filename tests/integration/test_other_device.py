"""Where tensors lie: everything trains on a device that refuses to be mixed with the host, as a GPU does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow.parquet import read_table

from tests.support.other_device import IS_SUPPORTED
from tests.support.ranks import ROOT, run_alone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IS_SUPPORTED, reason="this version of PyTorch lets nobody make a device in Python"),
]
PLACES = ("cpu", "other")


def test_the_device_refuses_tensors_of_the_host() -> None:
    """Or the tests below would pass with any code."""
    mixed = {
        "device + host": "RuntimeError",
        "host + device": "RuntimeError",
        "torch.cat([device, host])": "RuntimeError",
        "host[places]": "RuntimeError",
        "device.numpy()": "TypeError",
        "(device + 1).sum() + device[places].cpu().sum() + device[places.cpu()].sum()": "fine",
    }
    lines = ["import torch", "from tests.support import other_device", "place = other_device.register()"]
    lines += ["host, device = torch.arange(3), torch.arange(3, device=place)", "places = device[:1]"]
    for expression in mixed:
        lines += ["try:", f"    {expression}", "    print('fine')", "except (RuntimeError, TypeError) as error:"]
        lines += ["    print(type(error).__name__)"]
    ended = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.split() == list(mixed.values()), ended.stderr


def test_trainings_on_the_device_log_what_they_log_on_the_cpu() -> None:
    on_cpu, on_device = (
        json.loads(run_alone("training_on_device", place, "figures").splitlines()[-1]) for place in PLACES
    )
    assert on_cpu.keys() == on_device.keys() and len(on_cpu) > 10
    for name, lines in on_cpu.items():
        assert any(line.get("grad_norm", 0) > 0 for line in lines), name
        assert len(on_device[name]) == len(lines), name
        for line, there in zip(lines, on_device[name], strict=True):
            assert there == pytest.approx(line, rel=1e-4, abs=1e-6), name


def test_the_program_trains_continues_and_evaluates_on_the_device(tmp_path: Path) -> None:
    """The same records as on the CPU, from two sessions."""
    records: dict[str, list[dict[str, Any]]] = {}
    sizes = {"train_size": 64, "test_size": 16, "eval_size": 8, "max_completion_length": 48, "eval_steps": 1}
    sizes |= {"per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "save_steps": 1}
    train = ["train", "--config", str(ROOT / "recipes" / "countdown_tiny.yaml"), "--bf16", "false"]
    train += ["--report_to", "none", *(word for name, value in sizes.items() for word in (f"--{name}", str(value)))]
    for place in PLACES:
        folder = str(tmp_path / place)
        there = ["--use_cpu", str(place == "cpu").lower(), "--output_dir", folder]
        for steps in ("1", "2"):
            said = run_alone("training_on_device", place, "program", *train, *there, "--max_steps", steps)
        assert "Held-out accuracy" in said
        evaluated = ["eval", "--model", folder, "--data", "generate", "--limit", "8", "--max-completion-length", "32"]
        run_alone("training_on_device", place, "program", *evaluated, "--out", str(tmp_path / f"evaluation_{place}"))
        files = [Path(folder, name) for name in ("metrics.jsonl", "eval.jsonl")]
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        records[place] = [{name: line[name] for name in line if "time" not in name} for line in lines]
    assert len(records["cpu"]) == len(records["other"]) == 2 + 3
    for line, other in zip(records["cpu"], records["other"], strict=True):
        assert other == pytest.approx(line, rel=1e-4, abs=1e-6)
    answers = [read_table(tmp_path / f"evaluation_{place}" / "generations.parquet").to_pylist() for place in PLACES]
    assert answers[0] == answers[1] and len(answers[0]) == 8
