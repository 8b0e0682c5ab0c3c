"""A continued run is the same run: what may change is declared, everything else is refused by name."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from tinyzero_trl.runs.records import RunRecords
from tinyzero_trl.training.preflight.continuing import MAY_CHANGE, compare, may_change
from tinyzero_trl.training.preflight.resuming import check_continued
from tinyzero_trl.training.recipe.parser import parse_recipe
from tinyzero_trl.training.run import resolved_config

DOCS = Path(__file__).parents[2] / "docs" / "survival.md"
BASE = {
    "model_name_or_path": "embedded",
    "output_dir": "runs/test",
    "max_completion_length": 512,
    "num_generations": 4,
    "per_device_train_batch_size": 16,
    "max_steps": 4,
    "lr_scheduler_type": "constant",
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "window_strategy": "success",
}


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """The resolved fields of a recipe, as they are compared before a model is loaded."""

    def config(**changes: Any) -> dict[str, Any]:
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump({**BASE, **changes}))
        return resolved_config(*parse_recipe(["--config", str(file)]))

    return config


@pytest.fixture
def written(config: Any, tmp_path: Path) -> Any:
    """The same as a run has written it: model arguments completed, problems loaded."""

    def written(**changes: Any) -> dict[str, Any]:
        fields = config(**changes)
        fields["model_init_kwargs"] = {
            **(fields["model_init_kwargs"] or {}),
            **{"dtype": "float32", "attn_implementation": None, "revision": "main"},
            **{"trust_remote_code": False, "use_safetensors": True},
        }
        fields |= {"reward_weights": [1.0], "eval_on_start": True, "eval_size": fields["eval_size"] or 256}
        records = RunRecords(tmp_path / "run")
        records.write_config(fields)
        loaded: dict[str, Any] = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
        return loaded

    return written


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"window_strategy": "phased", "window_phases": [[0, 64], [10, 512]]},
        {"hub_token": "hf_secret0123456789", "learning_rate": "1e-6", "operands": [3, 4]},
        {"model_init_kwargs": {"use_cache": False}, "generation_kwargs": {"typical_p": 0.9}},
        {"dataset": "problems", "eval_size": 32},
        {"use_peft": True, "lora_target_modules": ["q_proj"], "warmup_steps": 0.1},
    ],
    ids=str,
)
def test_the_same_recipe_has_not_changed(config: Any, written: Any, recipe: dict[str, Any]) -> None:
    assert compare(written(**recipe), config(**recipe)) == ({}, {})


def test_a_run_of_an_older_version_wrote_no_defaults_of_its_task(config: Any, written: Any) -> None:
    """Its options were empty where the recipe gave none, and those of other tasks stood beside them."""
    older = written() | {"operands": None, "max_number": None, "digits": None}
    assert compare(older, config()) == ({}, {})
    assert compare(older, config(max_number=12))[1] == {"max_number": "99 there, 12 here"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 1e-6}, "learning_rate: 1e-06 there, 0.25 here"),
        ({"problem_seed": 9}, "problem_seed: 9 there, 0 here"),
        ({"prompt_template": "chat"}, "prompt_template: 'chat' there, 'base' here"),
        ({"num_generations": 8}, "num_generations: 8 there, 4 here"),
        ({"per_device_train_batch_size": 8}, "per_device_train_batch_size: 8 there, 16 here"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps: 2 there, 1 here"),
        ({"num_iterations": 2}, "num_iterations: 2 there, 1 here"),
        ({"max_completion_length": 256}, "max_completion_length: 256 there, 512 here"),
        ({"lr_scheduler_type": "linear"}, "lr_scheduler_type: 'linear' there, 'constant' here"),
        ({"model_name_or_path": "other"}, "model_name_or_path: 'other' there, 'embedded' here"),
        ({"use_peft": True}, "use_peft: True there, False here"),
        ({"lora_r": 8}, "lora_r: 8 there, 16 here"),
        ({"optim": "adafactor"}, "optim: 'adafactor' there, 'adamw_torch_fused' here"),
        ({"weight_decay": 0.5}, "weight_decay: 0.5 there, 0.0 here"),
        ({"temperature": 0.5}, "temperature: 0.5 there, 1.0 here"),
        ({"beta": 0.1}, "beta: 0.1 there, 0.0 here"),
        ({"seed": 3}, "seed: 3 there, 42 here"),
        ({"dtype": "bfloat16"}, "dtype: 'bfloat16' there, 'float32' here"),
        ({"window_strategy": "fixed"}, "window_strategy: 'fixed' there, 'success' here"),
        ({"window_min": 30}, "window_min: 30 there, 20 here"),
        ({"eval_size": 512}, "eval_size: 512 there, 256 here"),
        ({"train_size": 64}, "train_size: 64 there, 327680 here"),
        ({"reward_shaping": "cosine"}, "reward_shaping: 'cosine' there, 'none' here"),
        ({"generation_kwargs": {"typical_p": 0.9}}, "generation_kwargs: {'typical_p': 0.9} there, None here"),
        ({"model_init_kwargs": {"use_cache": False}}, "model_init_kwargs: {'use_cache': False} there, None here"),
    ],
    ids=str,
)
def test_what_would_make_it_another_run_is_refused_by_name(
    config: Any, written: Any, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    written(**{"learning_rate": 0.25, **changes})
    with pytest.raises(ValueError, match=r"^resume: '.*checkpoint-2' is of another recipe \(") as said:
        check_continued(str(tmp_path / "run" / "checkpoint-2"), config(learning_rate=0.25))
    assert named in str(said.value)
    assert "give --resume never, or another output_dir" in str(said.value)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_steps": 9},
        {"max_steps": 2},
        {"save_steps": 3, "save_total_limit": 5, "save_strategy": "epoch", "eval_strategy": "steps", "eval_steps": 7},
        {"report_to": "tensorboard", "logging_steps": 5, "run_name": "again", "output_dir": "runs/moved"},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
        {"max_tokens_per_micro_batch": 4096, "gradient_checkpointing": False, "padding_free": False},
        {"bf16": True, "attn_implementation": "eager", "dataloader_num_workers": 2, "torch_empty_cache_steps": 5},
        {"max_skipped_steps": 2, "resume": "runs/test/checkpoint-2", "num_train_epochs": 9, "hub_model_id": "a/b"},
        {"per_device_eval_batch_size": 4, "load_best_model_at_end": True, "metric_for_best_model": "eval/acc"}
        | {"eval_strategy": "steps", "eval_steps": 5, "save_steps": 5},
    ],
    ids=str,
)
def test_what_may_change_does(config: Any, written: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    written()
    free = check_continued(str(tmp_path / "run" / "checkpoint-2"), config(**changes))
    assert set(changes) - set(free) <= {"num_train_epochs"} | {
        name for name, value in changes.items() if config()[name] == value
    }


@pytest.mark.parametrize(
    ("schedule", "depends"),
    [
        ({"lr_scheduler_type": "linear"}, True),
        ({"lr_scheduler_type": "cosine"}, True),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0.1}, True),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5}, False),
        ({"lr_scheduler_type": "constant"}, False),
    ],
    ids=str,
)
def test_a_run_becomes_longer_only_where_past_learning_rates_stay_right(
    config: Any, written: Any, tmp_path: Path, schedule: dict[str, Any], depends: bool
) -> None:
    written(**schedule)
    checkpoint, longer = str(tmp_path / "run" / "checkpoint-4"), config(**schedule, max_steps=6)
    if not depends:
        assert check_continued(checkpoint, longer) == {"max_steps": "4 there, 6 here"}
        return
    with pytest.raises(ValueError, match=r"max_steps: 4 there, 6 here\): lr_scheduler_type .* give the old length, or"):
        check_continued(checkpoint, longer)


def test_epochs_are_the_length_where_no_steps_are_given(config: Any, written: Any, tmp_path: Path) -> None:
    written(lr_scheduler_type="linear", max_steps=-1, num_train_epochs=2)
    with pytest.raises(ValueError, match=r"num_train_epochs: 2 there, 3 here"):
        check_continued(
            str(tmp_path / "run" / "checkpoint-4"),
            config(lr_scheduler_type="linear", max_steps=-1, num_train_epochs=3),
        )


def test_a_path_spelled_otherwise_is_the_same_and_one_that_moved_says_what_to_do(
    config: Any, written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    written(model_name_or_path="model")
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    assert check_continued(checkpoint, config(model_name_or_path=str(tmp_path / "model"))) == {}
    with pytest.raises(ValueError, match=r"; if only its place has changed, correct model_name_or_path in '.*config.y"):
        check_continued(checkpoint, config(model_name_or_path="moved"))


def test_two_processes_with_half_the_batch_each_continue_the_run_of_one(config: Any, written: Any) -> None:
    """What a configuration on two processes says: the same rollout, dealt out to more."""
    old, new = written(), config(per_device_train_batch_size=8)
    new |= {"generation_batch_size": 16, "steps_per_generation": 1}
    assert compare(old, new) == ({"per_device_train_batch_size": "16 there, 8 here"}, {})


@pytest.mark.parametrize(
    "loss",
    [
        {"loss_type": "bnpo"},
        {"top_entropy_quantile": 0.0},
        {"top_entropy_quantile": 0.5},
        {"entropy_coef": 0.1},
        {"use_adaptive_entropy": True},
    ],
)
def test_a_loss_that_depends_on_how_a_batch_is_split_keeps_its_batches(
    config: Any, written: Any, loss: dict[str, Any]
) -> None:
    old, new = written(**loss), config(**loss, per_device_train_batch_size=8)
    new |= {"generation_batch_size": 16, "steps_per_generation": 1}
    assert compare(old, new) == ({}, {"per_device_train_batch_size": "16 there, 8 here"})


def test_fields_of_another_version_are_not_compared(config: Any, written: Any) -> None:
    old = {name: value for name, value in written().items() if name != "stop_at_answer"} | {"window_bygone": 3}
    assert compare(old, config()) == ({}, {})


def test_a_folder_without_a_configuration_has_nothing_to_compare(config: Any, tmp_path: Path) -> None:
    assert check_continued(str(tmp_path / "checkpoint-2"), config()) == {}


def test_the_table_names_fields_that_exist_and_the_docs_list_them(config: Any) -> None:
    fields, page = config(), DOCS.read_text(encoding="utf-8")
    for reason, patterns in MAY_CHANGE.items():
        assert f"**{reason}**" in page
        for pattern in patterns:
            assert any(fnmatchcase(name, pattern) for name in fields), pattern
            assert f"`{pattern}`" in page, pattern
    assert not may_change("learning_rate")
