"""Broken packages become lines of a report, and only what did something counts as working."""

import sys
from pathlib import Path

import pytest

from tinyzero_trl.commands import doctor
from tinyzero_trl.commands.doctor import PATIENTS, examine
from tinyzero_trl.commands.main import main

ROOT = Path(__file__).parents[2]
BY_NAME = {patient.name: patient for patient in PATIENTS}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a module of the given text where both interpreters find it first."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(module: str, text: str) -> None:
        (tmp_path / f"{module}.py").write_text(text)
        sys.modules.pop(module, None)

    return write


def test_a_package_that_raises_at_import_is_reported_with_the_command_that_mends_it(install) -> None:
    install("vllm", "raise RuntimeError('built for\\nanother torch')")
    found = examine(BY_NAME["vLLM"])
    assert (found.works, found.told) == (False, "RuntimeError: built for another torch")
    assert found.mend and found.mend.startswith("pip install -c constraints.txt -e '.[vllm]'")


def test_a_package_that_is_found_but_holds_nothing_does_not_work(install) -> None:
    install("vllm", "")
    assert not examine(BY_NAME["vLLM"]).works


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import os; os.abort()", "the interpreter was ended by signal 6 while it was tried"),
        ("import os; os._exit(3)", "the interpreter ended with status 3 while it was tried"),
        ("import sys; sys.exit('no')", "SystemExit: no"),
    ],
    ids=["crash", "silent", "exit"],
)
def test_a_package_that_ends_the_interpreter_is_reported(install, text: str, told: str) -> None:
    install("deepspeed", text)
    found = examine(BY_NAME["DeepSpeed"])
    assert (found.works, found.told) == (False, told)


def test_a_package_that_hangs_is_reported(install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TIMEOUT_S", 1)
    install("peft", "import time; time.sleep(60)")
    assert examine(BY_NAME["peft"]).told == "no answer within 1 s"


def test_wandb_works_offline_and_never_shows_a_key(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("wandb", "class api:\n    api_key = 'secret-key'")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    found = examine(BY_NAME["W&B"])
    assert found.works and "secret-key" not in found.told
    install("wandb", "class api:\n    api_key = None")
    found = examine(BY_NAME["W&B"])
    assert (found.works, found.mend) == (False, "wandb login, or WANDB_MODE=offline")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert examine(BY_NAME["W&B"]).told == "imported; WANDB_MODE is offline"


@pytest.mark.slow
def test_the_engines_that_every_installation_has_work() -> None:
    for name in ("continuous batching", "FSDP2"):
        found = examine(BY_NAME[name])
        assert found.works, found.told


def test_the_command_reports_and_ends_well(install, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    install("vllm", "raise ImportError('[no such] library')")
    install("wandb", "class api:\n    api_key = 'secret-key'")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(doctor, "PATIENTS", (BY_NAME["vLLM"], BY_NAME["W&B"]))
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "ImportError: [no such] library" in printed
    assert "pip install -c constraints.txt -e '.[vllm]'" in printed
    assert "torch 2" in printed and "secret-key" not in printed


def test_every_command_that_mends_names_an_extra_that_exists() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for patient in PATIENTS:
        if "'.[" in patient.mend:
            extra = patient.mend.split("'.[")[1].split("]")[0]
            assert f"\n{extra} = [" in project, extra
