"""Pushes that fail are warnings without tokens, and are tried again."""

import logging
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from tinyzero_trl.training.saving import hub
from tinyzero_trl.training.saving.hub import RetriedPushes

TOKEN = "hf_secret0123456789"


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> RetriedPushes:
    monkeypatch.setattr(hub.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(hub, "set_client_factory", lambda factory: None)
    caplog.set_level(logging.WARNING)
    args: Any = SimpleNamespace(hub_token=TOKEN, output_dir="runs/mine", hub_model_id="me/mine", hub_revision=None)
    return RetriedPushes(args)


def refuse() -> None:
    raise ConnectionError(f"refused {TOKEN}") from OSError("no route")


def uploads(monkeypatch: pytest.MonkeyPatch, failures: int) -> list[dict[str, Any]]:
    """Every upload that is tried; the first ones fail."""
    tried: list[dict[str, Any]] = []

    def upload_folder(**options: Any) -> str:
        tried.append(options)
        if len(tried) <= failures:
            refuse()
        return "uploaded"

    monkeypatch.setattr(hub, "hub_api", lambda: SimpleNamespace(upload_folder=upload_folder))
    return tried


OPTIONS: dict[str, Any] = {"commit_message": "End", "token": None, "revision": None}


def test_a_push_that_fails_is_tried_again_without_the_checkpoints(pushes, monkeypatch, caplog) -> None:
    tried = uploads(monkeypatch, failures=1)
    trainer: Any = SimpleNamespace(hub_model_id="me/mine", is_world_process_zero=lambda: True)
    assert pushes.push_run(trainer, refuse, **OPTIONS) == "uploaded"
    assert [each["repo_id"] for each in tried] == ["me/mine"] * 2
    assert tried[1]["ignore_patterns"] == ["_*", "checkpoint-*"]
    assert "the push failed (ConnectionError: refused <token>, because of OSError: no route)" in caplog.text
    assert TOKEN not in caplog.text


def test_a_hub_that_stays_away_leaves_the_command_to_upload_by_hand(pushes, monkeypatch, caplog) -> None:
    tried, ids = uploads(monkeypatch, failures=9), iter([None, "me/mine"])
    assert pushes.push_again(lambda: next(ids), **OPTIONS) is None
    assert len(tried) == 1, "nothing is uploaded to a Hub that is not reached"
    assert "Later: hf upload me/mine runs/mine . --exclude 'checkpoint-*'" in caplog.text


def test_what_failed_in_the_background_is_reported_once(pushes, caplog) -> None:
    failed, running = Future(), Future()
    failed.set_exception(ValueError("too large"))
    in_progress = SimpleNamespace(jobs=[failed, running])
    started = []
    pushes.push_checkpoint(lambda: started.append(1), in_progress)
    assert started == [1] and in_progress.jobs == [running]
    assert caplog.text.count("a push failed (ValueError: too large)") == 1
    pushes.report_failures(in_progress)
    pushes.report_failures(None)
    assert caplog.text.count("a push failed") == 1


def test_a_repository_that_cannot_be_made_is_a_warning(pushes, caplog) -> None:
    pushes.create_repository(refuse)
    assert "the repository cannot be reached" in caplog.text and "asked again at every push" in caplog.text
