"""GGUF files as models: what is refused before anything is read. tests/integration/test_smollm2.py reads a real one."""

from pathlib import Path

import pytest

from tinyzero_trl.models import gguf
from tinyzero_trl.models.loading import load_model_config
from tinyzero_trl.models.names import resolve_model


def test_a_file_that_is_not_there_is_named_with_one_that_is(tmp_path: Path) -> None:
    (tmp_path / "small.Q4_1.gguf").touch()
    with pytest.raises(ValueError, match=r"is no file; give one that exists, such as 'small.Q4_1.gguf' in the same"):
        resolve_model(str(tmp_path / "small.gguf"))
    with pytest.raises(ValueError, match=r"model: 'owner/name.GGUF' is no file; give one that exists$"):
        resolve_model("owner/name.GGUF")


def test_the_package_that_reads_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.gguf").touch()
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"small.gguf' needs the package gguf .*; pip install 'tinyzero-trl\[gguf\]'"):
        resolve_model(str(tmp_path / "small.gguf"))


def test_of_a_folder_with_a_gguf_file_alone_the_file_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").touch()
    with pytest.raises(ValueError, match=r"cannot be loaded .*; give the GGUF file itself, '.*small.gguf'"):
        load_model_config(str(tmp_path))
