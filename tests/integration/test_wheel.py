"""The package without its checkout: a built wheel trains, evaluates and reports from an empty folder."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import tinyzero_trl

ROOT = Path(__file__).parents[2]
ADDRESS = "https://example.org/owner/name"
TWO_STEPS = {
    "max_steps": 2,
    "train_size": 64,
    "test_size": 16,
    "eval_size": 8,
    "max_completion_length": 48,
    "window_initial": 32,
    "window_min": 16,
    "report_to": "none",
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling builds the wheel; pip install -e '.[dev]'"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    wheels, site = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(ROOT)]
    subprocess.run(build, env={**os.environ, "REPOSITORY_URL": ADDRESS}, check=True)
    [wheel] = wheels.iterdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    return site


@pytest.fixture
def call(site: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs the installed command from an empty folder; returns what it printed."""

    def run(*arguments: str) -> str:
        variables = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(site / "bin" / "tinyzero-trl"), *arguments]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        return done.stdout

    return run


def test_the_wheel_holds_every_recipe_and_launch_file(site: Path) -> None:
    for folder, shipped in (("recipes", "recipes"), ("configs/accelerate", "recipes/accelerate")):
        names = {file.name for file in (ROOT / folder).glob("*.yaml")}
        assert names == {file.name for file in (site / "tinyzero_trl" / shipped).glob("*.yaml")}


def test_help_says_where_recipes_and_pages_are(call: Callable[..., str], site: Path) -> None:
    printed = call("train", "--help")
    assert str(site / "tinyzero_trl" / "recipes") in printed
    assert f"{ADDRESS}/tree/main/docs/files.md" in printed, "a wheel holds no page"


def test_it_trains_evaluates_and_reports(call: Callable[..., str], site: Path, tmp_path: Path) -> None:
    assert call("--version") == f"tinyzero-trl {tinyzero_trl.__version__}\n"
    fields = [word for name, value in TWO_STEPS.items() for word in (f"--{name}", str(value))]
    printed = call("train", "--config", "countdown_tiny", *fields, "--output_dir", "run")
    assert "Held-out accuracy, 8 problems" in printed
    # the grid's default launch is `accelerate launch ... -m tinyzero_trl.commands.train`
    grid = {"output": "grid", "seeds": [0], "common": TWO_STEPS, "runs": {"again": {"recipe": "countdown_tiny"}}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    assert "finished after" in call("ablate", "grid.yaml")
    first, second = (
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("run", "grid/again/seed_0")
    )
    assert [line["loss"] for line in first] == [line["loss"] for line in second], "two ways to start one program"
    printed = call("eval", "--model", "run", "--data", "generate", "--limit", "4", "--max-completion-length", "16")
    assert "4 problems" in printed
    call("report", "run", "grid/again/seed_0", "--out", "page")
    assert (tmp_path / "page" / "index.html").is_file()
