"""LoRA: an adapter is trained, checkpointed, resumed, saved so that it loads, and evaluated."""

import json
from pathlib import Path

import pytest
import torch
from training import WatchedTrainer, train, write_recipe
from transformers import AutoModelForCausalLM

pytest.importorskip("peft")
LORA = {"use_peft": True, "lora_r": 4, "lora_alpha": 8, "lora_target_modules": ["q_proj", "v_proj"]}
SHORT = {"max_steps": 4, "save_steps": 2, "eval_steps": 4, "learning_rate": 0.03}


def adapter_of(trainer: WatchedTrainer) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in trainer.model.named_parameters() if each.requires_grad}


@pytest.mark.slow
def test_an_adapter_trains_resumes_and_loads(tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    whole = train(write_recipe(tmp_path, "whole", **LORA, **SHORT))
    trained = adapter_of(whole)
    assert trained and all("lora_" in name for name in trained)
    assert max(each.abs().max() for name, each in trained.items() if "lora_B" in name) > 0, "it starts at zero"

    run = tmp_path / "whole"
    saved = json.loads((run / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(tmp_path / "model")
    with_adapter = AutoPeftModelForCausalLM.from_pretrained(run)
    through_transformers = AutoModelForCausalLM.from_pretrained(run)
    ids = torch.arange(1, 9).unsqueeze(0)
    with torch.no_grad():
        expected = whole.model.eval()(input_ids=ids).logits
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(input_ids=ids).logits
        for loaded in (with_adapter, through_transformers):
            torch.testing.assert_close(loaded(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert (expected - base).abs().max() > 1e-3, "an adapter that changes nothing proves nothing"

    train(write_recipe(tmp_path, "parts", **LORA, **{**SHORT, "max_steps": 2}))
    resumed = train(write_recipe(tmp_path, "parts", **LORA, **SHORT))
    assert [batch.window for batch in resumed.batches if batch.training] == [
        batch.window for batch in whole.batches if batch.training
    ][-len([batch for batch in resumed.batches if batch.training]) :]
    for name, value in adapter_of(resumed).items():
        torch.testing.assert_close(value, trained[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
def test_an_adapter_can_be_evaluated(tmp_path: Path) -> None:
    from tinyzero_trl.cli import main

    train(write_recipe(tmp_path, **LORA, **{**SHORT, "max_steps": 1, "save_strategy": "no"}))
    arguments = ["eval", "--model", str(tmp_path / "run"), "--data", str(tmp_path / "problems")]
    arguments += ["--max-completion-length", "12", "--out", str(tmp_path / "evaluation")]
    assert main(arguments) == 0
    assert json.loads((tmp_path / "evaluation" / "eval.json").read_text())


def test_a_plan_counts_the_adapter_alone(tmp_path: Path) -> None:
    from tinyzero_trl.planning import Machines, plan_recipe

    plan = plan_recipe(["--config", str(write_recipe(tmp_path, **LORA))], Machines(1))
    # two layers, r of 4: q_proj is 64 x 64, v_proj 64 x 32
    assert plan.shape.trained_parameters == 2 * 4 * ((64 + 64) + (64 + 32))
