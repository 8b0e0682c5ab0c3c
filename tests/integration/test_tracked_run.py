"""What the trackers hold of a run that reports to all of them, none of them online; and that nothing holds a secret."""

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.training import LONGEST, PROGRAM, ROOT, write_recipe
from tests.support.wandb_files import history, messages, summary
from tinyzero_trl.metrics import describe
from tinyzero_trl.runs.records import read_run

pytestmark = pytest.mark.slow
PLANTED = ("hf_plantedinarecipe0", "hf_plantedintheenvironment0", "9f" * 19 + "00")
"""Secrets: a token in a recipe, one in the environment, and W&B's key there."""


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under the fixed window that reports to every tracker that is installed, none of them online."""
    workshop = tmp_path_factory.mktemp("trackers")
    names = ["tensorboard", *(name for name in ("wandb", "trackio") if importlib.util.find_spec(name))]
    settings = {"window_strategy": "fixed", "max_steps": 3, "eval_steps": 2, "save_strategy": "no", "report_to": names}
    recipe = write_recipe(workshop, hub_token=PLANTED[0], **settings)
    offline = {"WANDB_MODE": "offline", "WANDB_DIR": str(workshop), "WANDB_SILENT": "true", "PWD": str(workshop)}
    offline |= {"TRACKIO_DIR": str(workshop / "trackio"), "HF_HUB_OFFLINE": "1"}
    offline |= {"HF_TOKEN": PLANTED[1], "WANDB_API_KEY": PLANTED[2]}
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **offline}
    command = [sys.executable, str(PROGRAM), "--config", str(recipe)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, cwd=workshop)
    assert done.returncode == 0, done.stderr[-3000:]
    (workshop / "output").write_text(done.stdout + done.stderr)
    recipe.unlink()  # the one file that may hold a token
    assert "Held-out accuracy, 11 problems" in done.stdout
    return workshop


def expected_figures(workshop: Path) -> dict[tuple[str, int], float]:
    """Our figures by name and step; whatever is TRL's own goes its own way."""
    run = read_run(workshop / "run")
    lines = [*run.metrics, *run.evals]
    figures = {(name, line["step"]): value for line in lines for name, value in line.items() if describe(name)}
    return {(name, step): value for (name, step), value in figures.items() if (name, step) != ("time/elapsed_s", 0)}


def test_a_fixed_window_stays_and_the_last_step_is_evaluated(tracked: Path) -> None:
    run = read_run(tracked / "run")
    assert {line["adaptive_window/current_window"] for line in run.metrics} == {LONGEST}
    assert [line["step"] for line in run.evals] == [0, 2, 3]


def test_no_file_and_no_output_of_a_run_holds_a_secret(tracked: Path) -> None:
    files = [file for file in tracked.rglob("*") if file.is_file()]
    names = {file.name for file in files}
    assert {"config.yaml", "environment.json", "README.md", "training_args.bin", "output"} <= names
    for file in files:
        content = file.read_bytes()
        for secret in PLANTED:
            assert secret.encode() not in content, f"{secret} in {file.relative_to(tracked)}"


def test_tensorboard_has_our_figures_under_their_names(tracked: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked / "run" / "tensorboard"))
    events.Reload()
    read = {(name, event.step): event.value for name in events.Tags()["scalars"] for event in events.Scalars(name)}
    expected = expected_figures(tracked)
    for (name, step), value in expected.items():
        if name != "time/elapsed_s":
            assert read[name, step] == pytest.approx(value, rel=1e-5), (name, step)
    others = {name for name, _ in read} - {name for name, _ in expected}
    assert all(name.startswith(("train/", "eval/")) for name in others), "Transformers writes TRL's figures beside ours"


def test_wandb_has_our_figures_under_their_names(tracked: Path) -> None:
    pytest.importorskip("wandb")
    [file] = tracked.rglob("*.wandb")
    read = {}
    for row in history(file):
        read |= {(name, row["train/global_step"]): value for name, value in row.items() if "train/global_step" in row}
    for (name, step), value in expected_figures(tracked).items():
        if name != "time/elapsed_s":
            assert read[name, step] == pytest.approx(value), (name, step)


def test_wandb_draws_held_out_figures_over_tokens_and_the_others_over_steps(tracked: Path) -> None:
    pytest.importorskip("wandb")
    [file] = tracked.rglob("*.wandb")
    defined = [record.metric for record in messages(file) if record.HasField("metric")]
    over = {each.name or each.glob_name: each.step_metric for each in defined}
    held_out = {name for name in over if name.startswith("eval/")}
    assert {"eval/acc", "eval/reward", "eval/3_acc"} <= held_out
    assert {over[name] for name in held_out} == {"tokens/response_cumulative"}
    assert {over[name] for name in over.keys() - held_out - {"train/global_step"}} == {"train/global_step"}
    assert "*" in over, "what Transformers defines"
    run = read_run(tracked / "run")
    drawn = {row["tokens/response_cumulative"]: row["eval/acc"] for row in history(file) if "eval/acc" in row}
    assert drawn == {line["tokens"]: pytest.approx(line["eval/acc"]) for line in run.evals}
    assert len(drawn) == 3, "the evaluation before the first step too"


def test_the_table_of_wandb_has_the_best_accuracy_and_the_mean_cost(tracked: Path) -> None:
    pytest.importorskip("wandb")
    [file] = tracked.rglob("*.wandb")
    run, table = read_run(tracked / "run"), summary(file)
    accuracies = [line["eval/acc"] for line in run.evals]
    assert table["eval/acc"] == pytest.approx({"last": accuracies[-1], "max": max(accuracies)})
    costs = [line["tokens/response_total"] for line in run.metrics]
    assert table["tokens/response_total"] == pytest.approx({"last": costs[-1], "mean": sum(costs) / len(costs)})
    assert table["adaptive_window/current_window"] == {"last": LONGEST, "mean": LONGEST}
    assert table["tokens/response_cumulative"] == sum(costs)


def test_trackio_has_our_figures_under_their_names_in_one_run(tracked: Path) -> None:
    pytest.importorskip("trackio")
    [file] = (tracked / "trackio").glob("*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT run_name, metrics FROM metrics").fetchall()
    assert len({name for name, _ in rows}) == 1
    read = {}
    for _, text in rows:
        row = json.loads(text)
        read |= {(name, row["train/global_step"]): value for name, value in row.items() if "train/global_step" in row}
    for (name, step), value in expected_figures(tracked).items():
        if name != "time/elapsed_s":
            assert read[name, step] == pytest.approx(value), (name, step)
    drawn = [
        row["tokens/response_cumulative"] for row in map(json.loads, (text for _, text in rows)) if "eval/acc" in row
    ]
    assert sorted(drawn) == [line["tokens"] for line in read_run(tracked / "run").evals]
