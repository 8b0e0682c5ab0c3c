"""GGUF files as models: what is refused before anything is read. tests/integration/test_smollm2.py reads a real one."""

import json
from pathlib import Path

import numpy as np
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


def test_code_beside_a_file_does_not_run_even_if_somebody_says_yes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "y")
    _write_llama(tmp_path / "small.gguf")
    auto_map = {"AutoTokenizer": ["code.Code", "code.Code"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map}), encoding="utf-8")
    ran = tmp_path / "ran"
    (tmp_path / "code.py").write_text(f"open({str(ran)!r}, 'w')", encoding="utf-8")
    with pytest.raises(ValueError, match=r"small.gguf' cannot be read \(.* contains custom code"):
        gguf._convert(tmp_path / "small.gguf", tmp_path / "model")
    assert not ran.exists()


def _write_llama(file: Path) -> None:
    """A Llama of one layer: to its tokenizer a name beside it may bring code, in Transformers' eyes."""
    writer = pytest.importorskip("gguf").GGUFWriter(str(file), "llama")
    width, inner, words = 32, 64, ["<unk>", "<s>", "</s>", *map(chr, range(33, 94))]
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width))
    wide = {"ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}
    block = {**square, **wide, "attn_norm": (width,), "ffn_norm": (width,)}
    shapes = {"token_embd": (len(words), width), "output": (len(words), width), "output_norm": (width,)}
    for name, shape in (shapes | {f"blk.0.{name}": shape for name, shape in block.items()}).items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
