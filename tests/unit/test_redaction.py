"""Secrets stay out of what is written: by their field, by their look, or because the environment holds them."""

from pathlib import Path

import pytest

from tinyzero_trl.runs.model_card import write_model_card
from tinyzero_trl.runs.records import RunRecords
from tinyzero_trl.runs.redaction import HIDDEN, shown, without_secrets

SECRET = "hf_plantedsecret0plantedsecret0plan"


def test_secrets_are_hidden_by_field_look_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789planted")
    config = {
        "hub_token": "anything",
        "model_init_kwargs": {"token": "anything", "revision": "main"},
        "run_name": f"with {SECRET} inside",
        "project": ["of 0123456789planted"],
        "vllm_server_base_url": "http://me:password@host:8000",
        "max_tokens_per_micro_batch": 8192,
        "token": None,
        "seed": 0,
    }
    assert without_secrets(config) == {
        "hub_token": HIDDEN,
        "model_init_kwargs": {"token": HIDDEN, "revision": "main"},
        "run_name": f"with {HIDDEN} inside",
        "project": [f"of {HIDDEN}"],
        "vllm_server_base_url": f"http://{HIDDEN}@host:8000",
        "max_tokens_per_micro_batch": 8192,
        "token": None,
        "seed": 0,
    }


def test_ordinary_text_stays_as_it_is() -> None:
    for text in (
        "https://host/path?a=b@c",
        "half_of_it",
        "me@host",
        "hf_short",
        "hf_downloads/q.jsonl",
        "data/countdown",
    ):
        assert without_secrets(text) == text


@pytest.mark.parametrize(("name", "value"), [("hub_token", "anything"), ("hub_tokens", SECRET)])
def test_messages_show_no_secret(name: str, value: str) -> None:
    assert value not in shown(name, value)


def test_no_file_of_a_run_holds_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    records = RunRecords(tmp_path)
    config = {"seed": 0, "task": "countdown", "hub_token": SECRET, "hub_model_id": f"me/{SECRET}", "recipe": SECRET}
    records.write_config(config)
    records.write_environment([f"cpu {SECRET}"], note=SECRET)
    write_model_card(tmp_path)
    for file in tmp_path.iterdir():
        assert SECRET.encode() not in file.read_bytes(), file.name
    assert {file.name for file in tmp_path.iterdir()} == {"config.yaml", "environment.json", "README.md"}
