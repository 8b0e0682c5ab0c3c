"""A window policy that lives outside the package, as docs/windows.md prints it: in training, grids, reports, eval."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.tiny_models import write_problems
from tests.support.training import ROOT
from tinyzero_trl import AdaptiveGRPOConfig
from tinyzero_trl.commands.main import main
from tinyzero_trl.runs.records import read_run
from tinyzero_trl.training.recipe.parser import parse_recipe
from tinyzero_trl.windows import RolloutObservation, WindowConfig, WindowPolicy, make_policy, registry, strategies

OWN = "patience:PatienceWindow"
RECIPE = str(ROOT / "recipes" / "countdown_tiny.yaml")
TWO_STEPS: dict[str, Any] = {
    "max_steps": 2,
    "train_size": 64,
    "test_size": 16,
    "eval_size": 8,
    "max_completion_length": 48,
    "window_initial": 16,
    "window_min": 16,
    "window_success_threshold": 2.0,  # which no completion reaches, so that the window doubles
    "report_to": "none",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with the policy's module, and the working directory; afterwards the policy is forgotten."""
    page = (ROOT / "docs" / "windows.md").read_text(encoding="utf-8").split("## A policy of your own")[1]
    (tmp_path / "patience.py").write_text(page.split("```python\n")[1].split("```")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_POLICIES", dict(registry._POLICIES))
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield tmp_path
    sys.modules.pop("patience", None)


@pytest.mark.slow
def test_a_grid_trains_reports_and_evaluates_runs_of_the_users_policy(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = TWO_STEPS | {"window_strategy": OWN, "window_patience": 1}
    launch = [sys.executable, "-m", "tinyzero_trl.commands.train"]
    runs = {"patient": {"recipe": RECIPE, "overrides": overrides}}
    grid = {"output": "runs", "seeds": [0], "launch": launch, "runs": runs}
    (folder / "grid.yaml").write_text(yaml.safe_dump(grid))
    assert main(["ablate", "grid.yaml"]) == 0, capsys.readouterr()
    run = read_run(folder / "runs" / "patient" / "seed_0")
    assert [line["adaptive_window/current_window"] for line in run.metrics] == [16, 32]
    windows = {name for name in run.config if name.startswith("window_")}
    assert windows == {"window_" + name for name in ("strategy", "initial", "min", "max", "seed")} | {
        "window_success_threshold",
        "window_patience",
    }
    assert (run.config["window_strategy"], run.config["window_patience"]) == (OWN, 1)

    sys.modules.pop("patience")  # the grid has checked its fields
    path = str(run.path)
    assert main(["report", path, "--out", "report"]) == 0
    assert json.loads((folder / "report" / "summary.json").read_text())
    assert "patience" not in sys.modules, "records are read without running code that they name"
    data = str(write_problems(folder / "problems.jsonl"))
    assert main(["eval", "--model", path, "--data", data, "--limit", "4", "--max-completion-length", "8"]) == 0


def test_its_fields_are_checked_like_any_other(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(**fields: Any) -> str:
        options = [f"--{name}={value}" for name, value in (TWO_STEPS | {"window_strategy": OWN} | fields).items()]
        assert main(["train", "--config", RECIPE, "--output_dir", "out", *options]) == 2
        return capsys.readouterr().err.strip()

    assert "window_patience: 0 is below 1; set it to 1 or more" in refusal(window_patience=0)
    assert "window_patience: invalid int value: 'x'" in refusal(window_patience="x")
    assert f"window_headroom: 2.0 has no effect on strategy {OWN}" in refusal(window_headroom=2)
    assert "window_patiense: unknown field" in refusal(window_patiense=2)
    assert "cannot be imported (AttributeError" in refusal(window_strategy="patience:Nothing")
    assert "cannot be imported (ModuleNotFoundError" in refusal(window_strategy="nowhere:Nothing")
    assert "'patience:PatienceConfig' is not a registered window policy" in refusal(
        window_strategy="patience:PatienceConfig"
    )
    assert not (folder / "out").exists()


def test_recipe_command_line_and_python_say_the_same(folder: Path) -> None:
    def parsed(recipe: dict[str, Any], *options: str) -> WindowConfig:
        base = {
            "model_name_or_path": "embedded",
            "output_dir": "runs/test",
            "max_completion_length": 512,
            "bf16": False,
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(base | recipe))
        return parse_recipe(["--config", "recipe.yaml", *options])[1].window_config()

    python = AdaptiveGRPOConfig(
        "x", bf16=False, max_completion_length=512, window_strategy=OWN, window_options={"patience": 2}
    )
    expected = python.window_config()
    assert type(expected).__name__ == "PatienceConfig" and vars(expected)["patience"] == 2
    assert parsed({"window_strategy": OWN, "window_patience": 2}) == expected
    assert parsed({"window_strategy": OWN, "window_options": {"patience": 2}}) == expected
    assert parsed({}, "--window_strategy", OWN, "--window_patience", "2") == expected
    assert parsed({"window_strategy": OWN, "window_patience": 7}, "--window-patience=2") == expected
    # Another strategy on the command line leaves out what only the recipe's policy reads.
    assert parsed({"window_strategy": OWN, "window_patience": 7}, "--window_strategy", "fixed").strategy == "fixed"


def test_a_field_may_be_one_of_some_words_or_a_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (folder / "patience.py").read_text()
    page = page.replace("from dataclasses", "from typing import Literal\nfrom dataclasses")
    words = '    how: Literal["double", "jump"] = choice("double", "how", ("double", "jump"))\n'
    words += "    at: list[int] | None = None\n"
    page = page.replace("number, ", "choice, number, ").replace("    patience: int", f"{words}    patience: int")
    (folder / "patience.py").write_text(page)
    base = ["--model_name_or_path", "embedded", "--output_dir", "out", "--use_cpu", "true", "--window_strategy", OWN]
    parsed = parse_recipe([*base, "--window_how", "jump", "--window_at", "[1, 2]"])[1].window_config()
    assert (vars(parsed)["how"], vars(parsed)["at"]) == ("jump", [1, 2])
    for given, message in ((["--window_how", "x"], "choose one of double, jump"), (["--window_at", "1,"], "give JSON")):
        with pytest.raises(ValueError, match=message):
            parse_recipe([*base, *given])


def test_an_entry_point_names_a_policy(folder: Path) -> None:
    with pytest.raises(ValueError, match="'waiting' is unknown; choose one of fixed"):
        WindowConfig(strategy="waiting")
    package = folder / "users_policy-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: users-policy\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[tinyzero_trl.policies]\nwaiting = {OWN}\n")
    sys.path.append(str(folder))
    policy = make_policy(WindowConfig(strategy="waiting", patience=2, max=512))
    assert type(policy).__name__ == "PatienceWindow"
    assert "waiting" in strategies()


def test_its_state_travels_in_checkpoints_and_its_name_is_taken_once(folder: Path) -> None:
    sys.path.append(str(folder))
    module = import_module("patience")
    config = WindowConfig(strategy="patience", patience=2, initial=16, max=512)

    def after(policy: WindowPolicy[Any], rollouts: int) -> WindowPolicy[Any]:
        for step in range(rollouts):
            policy.observe(RolloutObservation(step, policy.window, [9], [0.0], [False], [0]))
        return policy

    resumed = make_policy(config)
    resumed.load_state_dict(json.loads(json.dumps(after(make_policy(config), 3).state_dict())))
    assert after(resumed, 1).window == after(make_policy(config), 4).window == 64
    with pytest.raises(ValueError, match=r"'patience' already names patience.PatienceWindow; choose another name"):
        registry.register_policy("patience", config=module.PatienceConfig)(type(make_policy(WindowConfig(max=9))))
    with pytest.raises(ValueError, match=r"register_policy: Undecorated is not a dataclass; add @dataclass"):
        registry.register_policy("other", config=type("Undecorated", (WindowConfig,), {}))
    with pytest.raises(ValueError, match=r"register_policy: 'a:b' is not a name; give one without a colon"):
        registry.register_policy("a:b", config=module.PatienceConfig)


def test_figures_of_its_own_stand_beside_the_windows() -> None:
    class Counting(WindowPolicy[WindowConfig]):
        def metrics(self) -> dict[str, float]:
            return {"half": 0.5}

        def choose_window(self) -> float:
            return 24

        def learn(self, observation: RolloutObservation) -> None:
            pass

    policy = Counting(WindowConfig(strategy="fixed", max=24))
    policy.observe(RolloutObservation(0, 24, [3], [1.0], [False], [0]))
    assert policy.figures() == {"current_window": 24.0, "next_window": 24.0, "half": 0.5}
