"""A Hub that does not answer is asked once: a name that is nowhere is one line, and what is cached is loaded."""

import json
import time

import pytest
from huggingface_hub import constants
from trl import ModelConfig

from tests.support.loopback_hub import LoopbackHub
from tinyzero_trl.commands.planning.shape import model_shape
from tinyzero_trl.models.loading import load_generation_config, load_model_config, load_tokenizer
from tinyzero_trl.runs.hub_access import hub_answers, offline_if_silent
from tinyzero_trl.tasks.sources import read_rows

COMMIT = "0" * 40


@pytest.fixture
def no_wait(monkeypatch, tmp_path):
    """No Hub at its address, nothing in the cache, and no patience: a pause between two requests fails the test."""

    def sleep(seconds):
        raise AssertionError(f"waits {seconds} s for the Hub")

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(time, "sleep", sleep)
    return tmp_path


@pytest.mark.parametrize("name", ["typo", "owner/typo"])
@pytest.mark.parametrize(
    ("load", "says"),
    [
        (load_model_config, "couldn't connect to .*; give a folder .*, a Hub id, or 'embedded'$"),
        (load_tokenizer, "couldn't connect to .*; give a folder .*, a Hub id, or 'embedded'$"),
        (load_generation_config, "couldn't connect to .*; give a folder .*, a Hub id, or 'embedded'$"),
        (lambda name: model_shape(ModelConfig(model_name_or_path=name)), "^model_name_or_path: .* couldn't connect to"),
    ],
    ids=["configuration", "tokenizer", "generation_config", "plan"],
)
def test_a_name_that_is_nowhere_is_one_line_at_once(no_wait, name, load, says):
    with pytest.raises(ValueError, match=says):
        load(name)


def test_a_data_set_that_is_nowhere_is_one_line_at_once(no_wait):
    with pytest.raises(ValueError, match=r"^dataset: 'owner/typo', split 'train': the Hub does not answer"):
        next(read_rows("owner/typo", "train", list))


@pytest.mark.parametrize("name", ["gpt2", "owner/name"])
def test_what_is_cached_is_loaded_at_once(no_wait, name):
    folder = no_wait / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": 48}))
    assert load_model_config(name).hidden_size == 48


def test_the_setting_is_as_before(no_wait, monkeypatch):
    with offline_if_silent("owner/name") as offline:
        assert offline and constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    with offline_if_silent(str(no_wait)) as offline:
        assert not offline and not constants.HF_HUB_OFFLINE, "a folder"
    with LoopbackHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        with offline_if_silent("owner/name") as offline:
            assert not offline and not constants.HF_HUB_OFFLINE
        assert hub.requests == ["HEAD /"], "any answer is one"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert not hub_answers() and hub.requests == ["HEAD /"]
