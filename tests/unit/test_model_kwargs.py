"""FlashAttention where it is installed and the weights are in half precision, Transformers' choice otherwise."""

import logging
from pathlib import Path

import pytest
from transformers import Qwen2Config
from trl import ModelConfig

from tinyzero_trl.training import model_kwargs
from tinyzero_trl.training.config import AdaptiveGRPOConfig

QWEN = Qwen2Config()


@pytest.fixture
def attention(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path):
    """The attention that is chosen, and what the log says of it."""

    def choose(
        dtype: str, installed: bool, cuda: bool = True, asked: str | None = None
    ) -> tuple[str | None, str | None]:
        monkeypatch.setattr(model_kwargs, "is_flash_attn_2_available", lambda: installed)
        monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
        training = AdaptiveGRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=dtype == "mixed")
        model = ModelConfig("model", dtype="float32" if dtype == "mixed" else dtype, attn_implementation=asked)
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="tinyzero_trl.training.model_kwargs"):
            chosen = model_kwargs.model_init_kwargs(model, training, QWEN)["attn_implementation"]
        lines = [each for each in caplog.messages if each.startswith("attention: ")]
        assert len(lines) <= 1
        return chosen, lines[0] if lines else None

    return choose


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_flash_attention_is_taken_where_it_can_be(attention, dtype: str) -> None:
    assert attention(dtype, installed=True) == ("flash_attention_2", "attention: flash_attention_2")
    for installed, cuda in ((False, True), (True, False)):
        chosen, line = attention(dtype, installed=installed, cuda=cuda)
        assert chosen is None and line.startswith("attention: sdpa")


@pytest.mark.parametrize("dtype", ["float32", "mixed"])
def test_weights_in_full_precision_keep_sdpa(attention, dtype: str) -> None:
    """Generation runs outside autocast, where FlashAttention refuses float32."""
    assert attention(dtype, installed=True)[0] is None


def test_what_is_asked_for_is_given(attention) -> None:
    assert attention("bfloat16", installed=True, asked="eager") == ("eager", None)
    assert attention("float32", installed=False, asked="flash_attention_2")[0] == "flash_attention_2"
