"""A run continues with the files of the model that it began with, whatever the place in which they lie."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tinyzero_trl.models.adapters import base_of_adapter
from tinyzero_trl.models.fingerprint import model_files
from tinyzero_trl.runs.records import CONFIG, RunRecords
from tinyzero_trl.training.preflight.resuming import check_same_model

MADE_IN_PYTHON = SimpleNamespace()


def commit(name: str) -> Any:
    return SimpleNamespace(_commit_hash=name)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model-00001-of-00002.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text(name)
    (folder / "README.md").write_text("about the model")
    return folder


@pytest.fixture
def adapter(model: Path) -> Path:
    folder = model.parent / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    (folder / "adapter_model.safetensors").write_text("adapter")
    return folder


def test_the_base_of_an_adapter_may_have_any_name(model: Path, adapter: Path) -> None:
    """PEFT writes JSON with escapes, in which a character may be two."""
    base = model.rename(model.with_name("model \U0001f600"))
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    assert base_of_adapter(str(adapter)) == str(base)


def began(folder: Path, files: dict[str, str]) -> str:
    RunRecords(folder).write_environment(model_files=files)
    return str(folder / "checkpoint-2")


def test_the_same_files_in_another_place_are_the_same_model(model: Path) -> None:
    files = model_files(str(model), MADE_IN_PYTHON)
    assert list(files) == sorted(each.name for each in model.iterdir() if each.name != "README.md")
    (model / "README.md").write_text("more about it")
    shutil.copytree(model, model.parent / "copy")
    assert model_files(str(model.parent / "copy"), MADE_IN_PYTHON) == files
    check_same_model(began(model.parent / "run", files), str(model.parent / "copy"), MADE_IN_PYTHON)


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "tokenizer.json", "chat_template.jinja"])
@pytest.mark.parametrize("change", ["another", "removed"])
def test_a_file_that_changed_is_named(model: Path, name: str, change: str) -> None:
    start = began(model.parent / "run", model_files(str(model), MADE_IN_PYTHON))
    (model / name).write_text("another") if change == "another" else (model / name).unlink()
    with pytest.raises(
        ValueError, match=rf"^resume: '.*checkpoint-2' began with other files of .*/model' \({name}\); "
    ):
        check_same_model(start, str(model), MADE_IN_PYTHON)


def test_a_file_that_came_is_named(model: Path) -> None:
    start = began(model.parent / "run", model_files(str(model), MADE_IN_PYTHON))
    (model / "generation_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"\(generation_config.json\); put them back as they were, or start anew: "):
        check_same_model(start, str(model), MADE_IN_PYTHON)


def test_an_adapter_lies_on_the_files_of_its_base(model: Path, adapter: Path) -> None:
    start = began(model.parent / "run", model_files(str(adapter), MADE_IN_PYTHON))
    check_same_model(start, str(adapter), MADE_IN_PYTHON)
    (model / "model-00001-of-00002.safetensors").write_text("another")
    with pytest.raises(ValueError, match=r"adapter' \(base/model-00001-of-00002.safetensors\); put them back"):
        check_same_model(start, str(adapter), MADE_IN_PYTHON)


def test_a_repository_of_the_hub_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = model_files("owner/name", commit("1a2b"))
    assert files == {"commit": "1a2b"}
    start = began(tmp_path / "run", files)
    check_same_model(start, "owner/name", commit("1a2b"))
    with pytest.raises(ValueError, match=rf"commit 1a2b of the model, of which 3c4d is taken now; .* {CONFIG} of the"):
        check_same_model(start, "owner/name", commit("3c4d"))


def test_what_an_older_version_did_not_note_is_not_compared(model: Path) -> None:
    assert model_files("", MADE_IN_PYTHON) == {}
    check_same_model(began(model.parent / "run", {}), str(model), MADE_IN_PYTHON)
    check_same_model(str(model.parent / "none" / "checkpoint-2"), str(model), MADE_IN_PYTHON)
