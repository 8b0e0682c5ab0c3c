"""A run is pushed as it trains; a Hub that is down, refuses or hangs up costs a warning and a later retry."""

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM
from transformers.utils import hub as transformers_hub

from tests.support.loopback_hub import Fault, LoopbackHub
from tests.support.training import PROGRAM, ROOT, train, write_recipe
from tinyzero_trl.runs.records import is_finished
from tinyzero_trl.training.saving.hub import RetriedPushes

TOKEN = "hf_loopbackSecret0123456789"
SHORT = {"max_steps": 2, "save_steps": 1, "eval_steps": 2, "push_to_hub": True, "hub_model_id": "me/tiny"}
KEPT_AT_HOME = ("_", "checkpoint-")


def files_of(run: Path) -> dict[str, bytes]:
    """What of a run's folder belongs on the Hub."""
    files = {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("*") if file.is_file()}
    return {name: content for name, content in files.items() if not name.startswith(KEPT_AT_HOME)}


@pytest.mark.slow
def test_a_run_is_on_the_hub_complete_although_the_hub_hung_up_twice(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, **SHORT, hub_strategy="checkpoint")
    faults = [Fault("/api/repos/create", None, times=1), Fault("/commit/", None, times=1)]
    with LoopbackHub(faults) as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, str(PROGRAM), "--config", str(recipe), "--hub_token", TOKEN]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "run"
    assert "Hub: the repository cannot be reached (RemoteProtocolError" in done.stderr
    assert done.stderr.count("attention: sdpa") == 1
    assert hub.commits[-1] == "End of training"
    pushed = {name: content for name, content in hub.files.items() if not name.startswith("last-checkpoint/")}
    assert pushed.keys() == files_of(run).keys()
    for name in ("model.safetensors", "README.md", "summary.json", "metrics.jsonl", "plots/accuracy.png"):
        assert pushed[name] == (run / name).read_bytes()
    assert "last-checkpoint/trainer_state.json" in hub.files
    card = pushed["README.md"].decode()
    assert str(tmp_path) not in card, "where the model lay is private"
    for fact in ("# me/tiny", "countdown", "from `model`", "success", "95 % interval", "rollout tokens"):
        assert fact in card
    assert "(plots/accuracy.png)" in card
    assert f"Bearer {TOKEN}" in hub.tokens
    for content in [*hub.files.values(), *files_of(run).values(), (done.stdout + done.stderr).encode()]:
        assert TOKEN.encode() not in content
    for file in run.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


@pytest.fixture
def pushing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path):
    """Trains in this process against a Hub at some address, without pauses; returns the folder and the warnings."""
    from huggingface_hub import close_session, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def run(url: str, **settings) -> tuple[Path, str]:
        monkeypatch.setattr(transformers_hub, "_hf_api", HfApi(endpoint=url, token=TOKEN))
        monkeypatch.setattr(RetriedPushes, "pauses_s", (0.0, 0.0))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # the loopback plays LFS
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # huggingface_hub's own pauses
        with caplog.at_level(logging.WARNING, logger="tinyzero_trl.training.saving.hub"):
            train(write_recipe(tmp_path, **{**SHORT, **settings}), pictures=True)
        return tmp_path / "run", caplog.text

    yield run
    set_client_factory(default_client_factory)
    close_session()


def assert_complete(run: Path) -> None:
    assert is_finished(run)
    assert (run / "README.md").exists() and (run / "plots" / "accuracy.png").exists()
    assert AutoModelForCausalLM.from_pretrained(run).num_parameters() > 0


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_hub_that_refuses_costs_nothing_but_warnings(pushing, status: int) -> None:
    with LoopbackHub([Fault("/", status)]) as hub:
        run, warnings = pushing(hub.url)
    assert_complete(run)
    assert "the repository cannot be reached (HfHubHTTPError" in warnings or "Error: " in warnings
    assert f"Later: hf upload me/tiny {run} . --exclude 'checkpoint-*'" in warnings
    assert len([request for request in hub.requests if "repos/create" in request]) >= 4, "it is asked again"
    assert TOKEN not in warnings


@pytest.mark.slow
def test_a_hub_that_is_down_costs_nothing_but_warnings(pushing) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        run, warnings = pushing(f"http://127.0.0.1:{nobody.getsockname()[1]}")
    assert_complete(run)
    assert "ConnectError" in warnings and "Later: hf upload" in warnings


@pytest.mark.slow
def test_a_push_that_fails_in_the_background_is_reported_and_made_up_for(pushing) -> None:
    with LoopbackHub([Fault("/commit/", 403, times=1)]) as hub:
        run, warnings = pushing(hub.url, hub_always_push=True)
    assert_complete(run)
    assert "Hub: a push failed (" in warnings and "the next one makes up for it" in warnings
    assert hub.files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert "hf upload" not in warnings


@pytest.mark.slow
def test_the_last_push_is_tried_again(pushing) -> None:
    with LoopbackHub([Fault("/commit/", 403, times=2)]) as hub:
        run, warnings = pushing(hub.url, hub_strategy="end")
    assert "the push failed (" in warnings and "the push failed again (" in warnings
    assert hub.commits == ["End of training"]
    assert hub.files["summary.json"] == (run / "summary.json").read_bytes()


def test_a_name_that_the_hub_cannot_have_stops_the_program(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^hub_model_id: .*'a/b/c'"):
        train(write_recipe(tmp_path, hub_model_id="a/b/c"))
