"""Broken packages become lines of a report, and only what did something counts as working."""

import sys
import tomllib
from pathlib import Path

import pytest

from tinyzero_trl.commands import diagnosis
from tinyzero_trl.commands.diagnosis import CHECKS, run
from tinyzero_trl.commands.main import main

ROOT = Path(__file__).parents[2]
BY_NAME = {check.name: check for check in CHECKS}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a module of the given text where both interpreters find it first."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(module: str, text: str) -> None:
        (tmp_path / f"{module}.py").write_text(text)
        monkeypatch.delitem(sys.modules, module, raising=False)  # the real one comes back afterwards

    return write


def test_a_package_that_raises_at_import_is_reported_with_the_command_that_fixes_it(install) -> None:
    install("vllm", "raise RuntimeError('built for\\nanother torch')")
    found = run(BY_NAME["vLLM"])
    assert (found.works, found.detail) == (False, "RuntimeError: built for another torch")
    assert found.fix and found.fix.startswith("pip install -c constraints.txt -e '.[vllm]'")


def test_a_package_that_is_found_but_holds_nothing_does_not_work(install) -> None:
    install("vllm", "")
    assert not run(BY_NAME["vLLM"]).works


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("import os; os.abort()", "the interpreter was ended by signal 6 during the check"),
        ("import os; os._exit(3)", "the interpreter ended with status 3 during the check"),
        ("import sys; sys.exit('no')", "SystemExit: no"),
    ],
    ids=["crash", "silent", "exit"],
)
def test_a_package_that_ends_the_interpreter_is_reported(install, text: str, detail: str) -> None:
    install("deepspeed", text)
    found = run(BY_NAME["DeepSpeed"])
    assert (found.works, found.detail) == (False, detail)


def test_a_package_that_hangs_is_reported(install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "TIMEOUT_S", 1)
    install("peft", "import time; time.sleep(60)")
    assert run(BY_NAME["peft"]).detail == "no answer within 1 s"


def test_wandb_works_offline_and_never_shows_a_key(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("wandb", "class api:\n    api_key = 'secret-key'")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    found = run(BY_NAME["W&B"])
    assert found.works and "secret-key" not in found.detail
    install("wandb", "class api:\n    api_key = None")
    found = run(BY_NAME["W&B"])
    assert (found.works, found.fix) == (False, "wandb login, or WANDB_MODE=offline")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert run(BY_NAME["W&B"]).detail == "imported; WANDB_MODE is offline"


@pytest.mark.slow
def test_the_engines_that_every_installation_has_work() -> None:
    for name in ("continuous batching", "FSDP2"):
        found = run(BY_NAME[name])
        assert found.works, found.detail


def test_the_command_reports_and_ends_well(install, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    install("vllm", "raise ImportError('[no such] library')")
    install("wandb", "class api:\n    api_key = 'secret-key'")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(diagnosis, "CHECKS", (BY_NAME["vLLM"], BY_NAME["W&B"]))
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "ImportError: [no such] library" in printed
    assert "pip install -c constraints.txt -e '.[vllm]'" in printed
    assert "torch 2" in printed and "secret-key" not in printed


def test_every_extra_that_a_run_may_use_has_a_row() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for extra in extras for check in CHECKS if f"[{extra}]" in check.fix or extra in check.fix.split()}
    assert named == set(extras) - {"docs", "dev"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trackio", "math-verify", "reasoning-gym"])
def test_the_extras_that_developers_have_work(name: str) -> None:
    found = run(BY_NAME[name])
    assert found.works and found.version, found.detail


def test_a_scorer_that_refuses_its_own_answer_does_not_work(install) -> None:
    install(
        "reasoning_gym",
        "class Made(list):\n    def score_answer(self, *_): return 0\n"
        "def create_dataset(*_, **__): return Made([{'answer': 'a'}])",
    )
    found = run(BY_NAME["reasoning-gym"])
    assert (found.works, found.detail) == (False, "an example was made, but its answer was not scored as right")


def test_every_command_that_fixes_names_an_extra_that_exists() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for check in CHECKS:
        if "'.[" in check.fix:
            extra = check.fix.split("'.[")[1].split("]")[0]
            assert f"\n{extra} = [" in project, extra
