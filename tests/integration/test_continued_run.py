"""A run that continues with other fields: what may change applies, and the run says so."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2Config

from tests.support.training import train, write_recipe
from tinyzero_trl.commands.train import main
from tinyzero_trl.runs.records import read_run

pytestmark = pytest.mark.usefixtures("deaf_to_signals")


def start(recipe: Path, *fields: str) -> int:
    return main(["--config", str(recipe), *fields])


def test_what_may_change_applies_from_there_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Saving more often, and another split of the same batch: the next rollout is that of an unbroken run."""
    unbroken = train(write_recipe(tmp_path, "unbroken", max_steps=3, save_strategy="no"))
    first = write_recipe(tmp_path, "run", max_steps=2, save_steps=2)
    assert start(first) == 0
    capsys.readouterr()
    split = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    continued = train(write_recipe(tmp_path, "run", max_steps=4, save_steps=1, **split))
    assert {each.name for each in (tmp_path / "run").glob("checkpoint-*")} == {
        f"checkpoint-{step}" for step in (2, 3, 4)
    }
    next_rollout = next(each for each in continued.batches if each.training)
    assert next_rollout.ids == [each for each in unbroken.batches if each.training][2].ids
    assert [line["step"] for line in read_run(tmp_path / "run").metrics] == [1, 2, 3, 4]
    assert start(first, "--max_steps", "4") == 0
    assert "is finished" in capsys.readouterr().out


def test_a_run_says_where_it_continues_and_what_has_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, max_steps=1, save_steps=1, eval_steps=1)
    assert start(recipe) == 0
    assert "resume:" not in capsys.readouterr().err
    assert start(recipe, "--max_steps", "2") == 0
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("resume: ")]
    assert line == f"resume: continues from {tmp_path / 'run' / 'checkpoint-1'}; changed: max_steps (1 there, 2 here)"


@pytest.mark.parametrize("fields", [{}, {"use_peft": True, "lora_r": 4}, {"beta": 0.1}], ids=str)
def test_a_run_whose_model_has_changed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, object]
) -> None:
    """An adapter would lie on other weights, and the reference model would be another one: no checkpoint holds them."""
    recipe = write_recipe(tmp_path, max_steps=1, save_steps=1, eval_steps=1, **fields)
    assert start(recipe) == 0
    weights = tmp_path / "model" / "model.safetensors"
    original = weights.read_bytes()
    changed = {name: weight * 1.01 for name, weight in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})
    capsys.readouterr()
    assert start(recipe, "--max_steps", "2") == 2
    assert f"began with other files of '{tmp_path / 'model'}' (model.safetensors); put" in capsys.readouterr().err
    weights.write_bytes(original)
    assert start(recipe, "--max_steps", "2") == 0


@pytest.mark.parametrize(("split", "named"), [("train", "train"), ("test", "held_out")])
def test_a_run_whose_examples_have_changed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str, named: str
) -> None:
    recipe = write_recipe(tmp_path, max_steps=1, save_steps=1, eval_steps=1)
    assert start(recipe) == 0
    file = tmp_path / "problems" / f"{split}.jsonl"
    first, second, *others = file.read_text().splitlines()
    file.write_text("\n".join([second, first, *others]) + "\n")
    capsys.readouterr()
    assert start(recipe, "--max_steps", "2") == 2
    assert f"began with other examples ({named}), although no field has changed; put the" in capsys.readouterr().err
    file.write_text("\n".join([first, second, *others]) + "\n")
    assert start(recipe, "--max_steps", "2") == 0


def test_a_tied_weight_is_not_missed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint holds it once, and the weights that go on are those of the checkpoint."""
    recipe = write_recipe(tmp_path, max_steps=1, save_steps=1, eval_steps=1)
    config = json.loads((tmp_path / "model" / "config.json").read_text()) | {"tie_word_embeddings": True}
    AutoModelForCausalLM.from_config(Qwen2Config(**config)).save_pretrained(tmp_path / "model")
    trained = train(recipe)
    assert trained.model.lm_head.weight is trained.model.model.embed_tokens.weight
    saved = load_file(tmp_path / "run" / "checkpoint-1" / "model.safetensors")
    assert "lm_head.weight" not in saved
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    continued = train(write_recipe(tmp_path, max_steps=1, save_steps=1, eval_steps=1, resume="newest"))
    assert "missing keys" not in caplog.text
    assert torch.equal(continued.model.lm_head.weight, saved["model.embed_tokens.weight"])


def test_another_recipe_is_refused_for_a_finished_run_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, max_steps=1, save_steps=1, eval_steps=1)
    assert start(recipe) == 0
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    capsys.readouterr()
    assert start(recipe, "--learning_rate", "0.5") == 2
    assert "(learning_rate: 0.003 there, 0.5 here)" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_weights_alone_are_not_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, max_steps=1, save_steps=1, eval_steps=1, save_only_model=True)
    assert start(recipe) == 0
    capsys.readouterr()
    assert start(recipe, "--max_steps", "2") == 2
    assert "checkpoint-1' holds weights alone (save_only_model), and no optimizer; " in capsys.readouterr().err


def test_a_checkpoint_that_has_lost_its_optimizer_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on from the one before and ends as an unbroken one; what has lost a file is moved aside."""
    unbroken = train(write_recipe(tmp_path, "unbroken", max_steps=3, save_strategy="no"))
    recipe = write_recipe(tmp_path, "run", max_steps=2, save_steps=1)
    assert start(recipe) == 0
    newest = tmp_path / "run" / "checkpoint-2"
    (newest / "optimizer.pt").unlink()
    capsys.readouterr()
    assert start(recipe) == 0
    assert "is finished" in capsys.readouterr().out, "its checkpoints are not needed any more"
    assert start(recipe, "--max_steps", "3", "--resume", str(newest)) == 2
    assert "checkpoint-2' holds no complete checkpoint (optimizer.pt is missing); give" in capsys.readouterr().err
    assert start(recipe, "--max_steps", "3") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("resume: ")]
    assert lines == [
        f"resume: continues from {tmp_path / 'run' / 'checkpoint-1'}; changed: max_steps (2 there, 3 here)",
        f"resume: {newest} does not count, because optimizer.pt is missing; training goes on from checkpoint-1",
    ]
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in unbroken.model.state_dict().items())
    assert (tmp_path / "run" / "_earlier" / "1" / "checkpoint-2" / "model.safetensors").is_file()


def test_lost_lines_are_named_and_damaged_ones_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, max_steps=2, save_steps=2)
    assert start(recipe) == 0
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_bytes(b"\x7fELF" + bytes(9))
    assert start(recipe, "--max_steps", "3") == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {metrics}, line 1: not a record ") and line.endswith("correct or remove the line")
    metrics.unlink()
    assert start(recipe, "--max_steps", "3") == 0
    said = f"resume: {metrics} lacks steps 1 to 2, which no report will show; if there is a copy of the file, put it"
    assert said in capsys.readouterr().err
    assert [line["step"] for line in read_run(tmp_path / "run").metrics] == [3]


def test_an_empty_configuration_of_the_run_is_refused_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, max_steps=1, save_steps=1, eval_steps=1)
    assert start(recipe) == 0
    (tmp_path / "run" / "config.yaml").write_text("")
    capsys.readouterr()
    assert start(recipe, "--max_steps", "2") == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {tmp_path / 'run' / 'config.yaml'} should hold the fields that the run was started")
    assert line.endswith("put a copy back, or remove it: the run then goes on with the fields that are given now")
    (tmp_path / "run" / "config.yaml").unlink()
    assert start(recipe, "--max_steps", "2") == 0
    assert read_run(tmp_path / "run").config["max_steps"] == 2
