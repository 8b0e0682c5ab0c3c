"""Adapters: trained as by stock TRL, checkpointed, resumed, saved so that they load, and evaluated."""

import copy
import json
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from trl import GRPOTrainer

from tests.support import fixed_rollouts
from tests.support.tiny_models import build_model, build_tokenizer
from tests.support.training import WatchedTrainer, train, write_recipe
from tinyzero_trl import AdaptiveGRPOTrainer
from tinyzero_trl.commands.main import main
from tinyzero_trl.generation.compacting import can_compact, compacting_generate
from tinyzero_trl.models.adapters import base_of_adapter
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.models.toy import SHIPPED
from tinyzero_trl.runs.records import read_run
from tinyzero_trl.training.preflight.trainable import samples_with_prefix

LORA = {"use_peft": True, "lora_r": 4, "lora_alpha": 8, "lora_target_modules": ["q_proj", "v_proj"]}
EVERYWHERE = {"lora": peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])}
BY_PLACE = {
    "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "alora": peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], alora_invocation_tokens=[5]),
}
ADAPTERS = EVERYWHERE | BY_PLACE
SHORT = {"max_steps": 4, "save_steps": 2, "eval_steps": 4, "learning_rate": 0.03}


def adapter_of(trainer: WatchedTrainer) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in trainer.model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("padding_free", [False, True])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_ends_at_the_parameters_of_stock_trl(adapter: str, padding_free: bool) -> None:
    """Trimming prompts or packing rows would move a learnt prompt nearer to what is asked."""

    def trained(trainer_class: type[GRPOTrainer], **settings: object) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        trainer = fixed_rollouts.train(
            trainer_class,
            peft_config=copy.deepcopy(ADAPTERS[adapter]),
            max_tokens_per_micro_batch=40,
            gradient_checkpointing=False,  # a prefix is a cache, which checkpointing drops
            **settings,
        )
        return {name: each.detach() for name, each in trainer.model.named_parameters() if each.requires_grad}

    if adapter == "prefix" and not samples_with_prefix():
        with pytest.raises(ValueError, match=r"^peft_config: PREFIX_TUNING has no effect on rollouts, because Transf"):
            trained(AdaptiveGRPOTrainer)
        return
    start, stock = trained(GRPOTrainer, learning_rate=0.0), trained(GRPOTrainer)
    ours = trained(AdaptiveGRPOTrainer, padding_free=padding_free)
    assert max((stock[name] - start[name]).abs().max() for name in stock) > 1e-3
    for name, value in ours.items():
        torch.testing.assert_close(value, stock[name], rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_with_an_adapter_the_same_is_written(adapter: str) -> None:
    tokenizer = build_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft.get_peft_model(build_model(tokenizer), copy.deepcopy(ADAPTERS[adapter])).eval()
    batch = tokenizer(["1 2 3", "1 2 3 4", "7", "9 8"] * 4, return_tensors="pt", padding=True, padding_side="left")
    settings = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    config = GenerationConfig(**settings, eos_token_id=[tokenizer.eos_token_id, 8, 17])
    stock = model.generate(**batch, generation_config=config)
    assert can_compact(model, config) is (adapter in EVERYWHERE)
    ours = compacting_generate(model, batch.input_ids, batch.attention_mask, config)
    assert torch.equal(ours, stock)


@pytest.mark.slow
def test_an_adapter_trains_resumes_and_loads(tmp_path: Path) -> None:
    whole = train(write_recipe(tmp_path, "whole", **LORA, **SHORT))
    trained = adapter_of(whole)
    assert trained and all("lora_" in name for name in trained)
    assert max(each.abs().max() for name, each in trained.items() if "lora_B" in name) > 0, "it starts at zero"

    run = tmp_path / "whole"
    saved = json.loads((run / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(tmp_path / "model")
    with_adapter = peft.AutoPeftModelForCausalLM.from_pretrained(run)
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
def test_an_adapter_is_trained_on_and_its_base_may_move(tmp_path: Path) -> None:
    short = {**SHORT, "max_steps": 1, "save_strategy": "no"}
    first = train(write_recipe(tmp_path, "first", **LORA, **short))
    model = str(tmp_path / "first")
    second = train(write_recipe(tmp_path, "second", **LORA, **short, beta=0.1, model_name_or_path=model))
    before, after = adapter_of(first), adapter_of(second)
    kinds = (read_run(tmp_path / name).evals for name in ("first", "second"))
    ended, began = (lines[place] for lines, place in zip(kinds, (-1, 0), strict=True))
    assert {name: ended[name] for name in ("eval/acc", "eval/mean_length")}.items() <= began.items()
    assert before.keys() == after.keys() and max((after[name] - before[name]).abs().max() for name in after) > 1e-3
    assert json.loads((tmp_path / "second" / "adapter_config.json").read_text())["r"] == LORA["lora_r"]
    with pytest.raises(ValueError, match=r"lora_r: 8 differs from 4 of the adapter .*; set it to 4, or leave out"):
        train(write_recipe(tmp_path, "third", **{**LORA, "lora_r": 8}, **short, model_name_or_path=model))

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model").rename(tmp_path / "elsewhere" / "model")
    arguments = ["eval", "--model", model, "--data", str(tmp_path / "problems"), "--max-completion-length", "12"]
    arguments += ["--include-trained"]  # both splits are the same
    assert main([*arguments, "--out", str(tmp_path / "none")]) == 2
    (tmp_path / "first").rename(tmp_path / "elsewhere" / "first")
    arguments[2] = str(tmp_path / "elsewhere" / "first")
    assert main([*arguments, "--out", str(tmp_path / "evaluation")]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"base_model_name_or_path": "/gone/model"},
            r"is an adapter of '/gone/model', which has moved; put .*/model'",
        ),
        ({"base_model_name_or_path": ""}, r"names no base_model_name_or_path; copy the adapter's folder whole"),
    ],
)
def test_an_adapter_that_cannot_be_loaded_is_one_line(changes: dict, message: str, tmp_path: Path) -> None:
    model = peft.get_peft_model(build_model(build_tokenizer()), copy.deepcopy(EVERYWHERE["lora"]))
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        base_of_adapter(str(tmp_path))


@pytest.mark.parametrize("name", SHIPPED)
def test_an_adapter_of_another_installation_has_the_embedded_model(name: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").touch()
    base = {"base_model_name_or_path": f"/other/site-packages/tinyzero_trl/models/toy/{SHIPPED[name].name}"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(base))
    assert base_of_adapter(str(tmp_path)) == resolve_model(name)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"is an adapter without adapter_model.safetensors; save it anew"):
        base_of_adapter(str(tmp_path))


@pytest.mark.slow
def test_an_adapter_can_be_evaluated(tmp_path: Path) -> None:
    train(write_recipe(tmp_path, **LORA, **{**SHORT, "max_steps": 1, "save_strategy": "no"}))
    arguments = ["eval", "--model", str(tmp_path / "run"), "--data", str(tmp_path / "problems")]
    arguments += ["--max-completion-length", "12", "--out", str(tmp_path / "evaluation"), "--include-trained"]
    assert main(arguments) == 0
    assert json.loads((tmp_path / "evaluation" / "eval.json").read_text())


def test_a_plan_counts_the_adapter_alone(tmp_path: Path) -> None:
    from tinyzero_trl.commands.planning import Machines, plan_recipe

    plan = plan_recipe(["--config", str(write_recipe(tmp_path, **LORA))], Machines(1))
    # two layers, r of 4: q_proj is 64 x 64, v_proj 64 x 32
    assert plan.shape.trained_parameters == 2 * 4 * ((64 + 64) + (64 + 32))
