"""The cap on the attention logits of Gemma 2: sdpa and continuous batching leave it out, and nobody says so."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen2Config
from trl import ModelConfig

from tests.support.tiny_models import build_tokenizer
from tests.support.training import write_recipe
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer
from tinyzero_trl.models.loading import load_model
from tinyzero_trl.models.softcap import attention_with_softcap, check_softcap
from tinyzero_trl.training import run
from tinyzero_trl.training.model_kwargs import model_init_kwargs
from tinyzero_trl.training.recipe.parser import parse_recipe

LEFT_OUT = "leaves out attn_logit_softcapping 2 of the model"
SDPA = f"attn_implementation: 'sdpa' {LEFT_OUT}; set it to eager"
BY_BATCHES = f"use_transformers_continuous_batching: true {LEFT_OUT}; set it to false"


def config(softcap: float | None = 2.0) -> Gemma2Config:
    tokenizer = build_tokenizer()
    return Gemma2Config(
        **{"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.5},
        **{"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None},
        attn_logit_softcapping=softcap,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    Gemma2ForCausalLM(config()).save_pretrained(tmp_path / "gemma")
    build_tokenizer().save_pretrained(tmp_path / "gemma")
    return tmp_path / "gemma"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(12)[None]).logits


def test_a_default_becomes_eager_and_sdpa_is_refused() -> None:
    assert attention_with_softcap(config(), None) == "eager"
    assert attention_with_softcap(config(), "flash_attention_2") == "flash_attention_2"
    with pytest.raises(ValueError, match=SDPA):
        attention_with_softcap(config(), "sdpa")
    with pytest.raises(ValueError, match=BY_BATCHES):
        check_softcap(config(), "eager", continuous_batching=True)
    for without in (config(softcap=None), Qwen2Config()):
        assert attention_with_softcap(without, None) is None
        check_softcap(without, "sdpa", continuous_batching=True)


def test_an_evaluation_and_a_recipe_attend_with_the_cap(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is right is computed by eager; sdpa gives other logits, or refuses from Transformers 5.24 on."""
    right = logits(Gemma2ForCausalLM.from_pretrained(folder, attn_implementation="eager"))
    try:
        assert (logits(Gemma2ForCausalLM.from_pretrained(folder, attn_implementation="sdpa")) - right).abs().max() > 0.1
    except ValueError as error:
        assert "scaled_dot_product_attention" in str(error)
    torch.testing.assert_close(logits(load_model(str(folder))), right, rtol=1e-4, atol=1e-4)
    with caplog.at_level(logging.INFO, logger="tinyzero_trl"):
        training = AdaptiveGRPOConfig(output_dir=str(folder), use_cpu=True, bf16=False)
        chosen = model_init_kwargs(ModelConfig("model", dtype="float32"), training, config())
    assert chosen["attn_implementation"] == "eager" and "attention: eager" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"attn_implementation": "sdpa"}, SDPA), ({"use_transformers_continuous_batching": True}, BY_BATCHES)],
)
def test_a_recipe_is_refused_before_its_weights_are_read(
    fields: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, model_name_or_path=str(folder), **fields)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(ValueError, match=message):
        run.build_trainer(*parse_recipe(["--config", str(recipe)]))


def test_a_trainer_from_python_is_refused(folder: Path, tmp_path: Path) -> None:
    model = Gemma2ForCausalLM.from_pretrained(folder, attn_implementation="eager")
    model.config._attn_implementation = "sdpa"  # what `from_pretrained` gives before Transformers 5.24
    settings: dict[str, Any] = {"max_completion_length": 8, "per_device_train_batch_size": 8, "num_generations": 4}
    settings |= {"use_cpu": True, "bf16": False, "report_to": "none", "window_strategy": "fixed"}
    with pytest.raises(ValueError, match=SDPA):
        AdaptiveGRPOTrainer(
            model,
            lambda completions, **_: [0.0] * len(completions),
            AdaptiveGRPOConfig(str(tmp_path / "run"), **settings),
            train_dataset=Dataset.from_dict({"prompt": ["1 2", "3"] * 4}),
            processing_class=build_tokenizer(),
        )
