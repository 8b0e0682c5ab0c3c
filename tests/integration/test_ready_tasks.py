"""docs/ready_tasks.md as printed: its files, and its commands in their order, for every task without code."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tinyzero_trl.commands.main import main

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed; pip install 'tinyzero-trl[reasoning-gym]'")
pytest.importorskip("math_verify", reason="math-verify is not installed; pip install 'tinyzero-trl[math-verify]'")

PAGE = (Path(__file__).parents[2] / "docs" / "ready_tasks.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE))
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
SHELL = [line for language, block in BLOCKS if not language for line in block.splitlines()]
COMMANDS = [shlex.split(line) for line in SHELL if line.startswith("tinyzero-trl")]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The user's folder after all commands of the page."""
    folder = tmp_path_factory.mktemp("user")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for _, *arguments in COMMANDS:
            assert main(arguments) == 0, arguments
        yield folder


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_page_shows_each_task_through_its_commands(folder: Path) -> None:
    assert [command[1] for command in COMMANDS] == [
        *("train", "eval", "data", "report", "train", "eval", "report", "train", "eval", "report")
    ]
    assert {"sums.yaml", "gsm8k.yaml", "problems.jsonl", "questions.yaml", "questions.jsonl"} == {*FILES}
    for name in ("sums", "gsm8k", "questions"):
        assert [line["step"] for line in lines(folder / "runs" / name / "metrics.jsonl")] == [1, 2]
        assert (folder / "report" / name / "index.html").is_file()


def test_labels_reach_metrics_report_and_the_window_of_groups(folder: Path) -> None:
    logged = {name for line in lines(folder / "runs/sums/metrics.jsonl") for name in line}
    assert {"difficulty/num_terms 2_acc", "difficulty/num_terms 3_count", "group_window/stopped_frac"} <= logged
    assert (folder / "report/sums/plots/difficulty.png").is_file()
    assert "Accuracy by difficulty" in (folder / "report/sums/index.html").read_text()
    result = json.loads((folder / "evaluations/sums/eval.json").read_text())
    assert {*result["difficulty"]} <= {"num_terms 2", "num_terms 3"} and {*result["pass_at_k"]} == {"1", "2"}
    rows = pq.read_table(folder / "evaluations/sums/generations.parquet").to_pylist()
    assert {row["difficulty"] for row in rows} == {*result["difficulty"]}
    assert all("between <answer> and </answer>" in row["prompt"] for row in rows)


def test_gsm8k_is_shaped_and_broken_down(folder: Path) -> None:
    config = yaml.safe_load((folder / "runs/gsm8k/config.yaml").read_text())
    assert (config["task"], config["reward_shaping"]) == ("gsm8k", "cosine")
    assert {*json.loads((folder / "evaluations/gsm8k/eval.json").read_text())["difficulty"]} == {"1 step"}


def test_own_data_keeps_its_labels(folder: Path) -> None:
    result = json.loads((folder / "evaluations/questions/eval.json").read_text())
    assert {*result["difficulty"]} == {"small", "large"} and result["problems"] == 12
    assert result["settings"]["task"] == "prompt_answer"


def test_written_problems_train_and_a_stopped_run_goes_on(folder: Path) -> None:
    """From the file, two steps at once and one after the other leave the same figures."""
    shared = ["train", "--config", "sums.yaml", "--dataset", "data/sums", "--lr_scheduler_type", "constant"]
    shared += ["--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no"]
    assert main([*shared, "--output_dir", "runs/whole"]) == 0
    assert main([*shared, "--output_dir", "runs/parts", "--max_steps", "1"]) == 0
    assert main([*shared, "--output_dir", "runs/parts"]) == 0
    whole, parts = (
        [{name: value for name, value in line.items() if "time" not in name} for line in lines(file)]
        for file in (folder / "runs" / name / "metrics.jsonl" for name in ("whole", "parts"))
    )
    assert whole == parts and len(whole) == 2
