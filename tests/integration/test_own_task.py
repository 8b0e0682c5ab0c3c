"""A task of a user's own, as docs/tasks.md prints it, goes through every command without a change of the package."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tinyzero_trl.commands.main import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")


BLOCKS = dict(re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE))
COMMANDS = [shlex.split(line) for line in BLOCKS[""].splitlines()]


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "tinyzero_trl.commands.main", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder after the commands of the page, in their order."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "last_letter.py").write_text(BLOCKS["python"])
    (folder / "last_letter.yaml").write_text(BLOCKS["yaml"])
    for _, *arguments in COMMANDS:
        done = call(folder, *arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return folder


@pytest.mark.slow
def test_the_page_shows_every_command(folder: Path) -> None:
    assert [command[:2] for command in COMMANDS] == [
        ["tinyzero-trl", name] for name in ("train", "data", "eval", "report")
    ]


@pytest.mark.slow
def test_a_run_of_the_task_is_recorded(folder: Path) -> None:
    config = yaml.safe_load((folder / "runs/last_letter/config.yaml").read_text())
    assert (config["task"], config["letters"], config["prompt_template"]) == ("last_letter:LastLetter", 3, "base")
    environment = json.loads((folder / "runs/last_letter/environment.json").read_text())
    assert environment["task_options"] == ["letters"], "by which reports know what the task was asked"
    lines = [json.loads(line) for line in (folder / "runs/last_letter/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["difficulty/3_count"] == 8 for line in lines)
    samples = (folder / "runs/last_letter/completions/step_000001.jsonl").read_text().splitlines()
    assert all("What is the last letter of the word" in json.loads(line)["prompt"] for line in samples)


@pytest.mark.slow
def test_its_data_and_its_evaluation_hold_words(folder: Path) -> None:
    words = [row["word"] for row in pq.read_table(folder / "data/last_letter/test.parquet").to_pylist()]
    train = [row["word"] for row in pq.read_table(folder / "data/last_letter/train.parquet").to_pylist()]
    assert (len({*words}), len({*train}), {*words} & {*train}) == (16, 64, set())
    table = pq.read_table(folder / "evaluations/last_letter/generations.parquet")
    assert table.column_names[:3] == ["prompt", "completion", "word"]
    rows = table.to_pylist()
    assert [row["word"] for row in rows] == words
    assert {row["reason"] for row in rows} <= {"correct", "wrong-letter", "no-answer-tag"}
    assert json.loads((folder / "evaluations/last_letter/eval.json").read_text())["problems"] == 16


@pytest.mark.slow
def test_the_report_shows_its_completions(folder: Path) -> None:
    assert "What is the last letter of the word" in (folder / "report/index.html").read_text()


@pytest.mark.slow
def test_a_grid_of_the_task_is_planned(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = {
        "output": "runs/grid",
        "seeds": [0],
        "runs": {"words": {"recipe": "last_letter.yaml", "overrides": {"letters": 2}}},
    }
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    monkeypatch.chdir(folder)
    assert main(["ablate", "grid.yaml", "--dry-run"]) == 0
    assert "--letters 2" in capsys.readouterr().out
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid).replace("letters", "digits"))
    assert main(["ablate", "grid.yaml", "--dry-run"]) == 2
    errors = capsys.readouterr().err
    assert errors.rstrip().endswith("digits: 2 has no effect on the task last_letter:LastLetter; remove it")


@pytest.mark.slow
def test_a_models_configuration_alone_runs_no_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(["eval", "--model", "runs/last_letter", "--data", "data/last_letter", "--out", "out"]) == 2
    assert "is code; if you trust it, let it run by --task 'last_letter:LastLetter'" in capsys.readouterr().err
