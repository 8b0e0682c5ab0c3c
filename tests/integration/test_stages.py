"""A rollout that pauses gives the same completions on each of TRL's engines; the recipe alone says how to sample."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import GenerationConfig

from tests.support.tiny_models import build_model, build_tokenizer
from tests.support.training import RECIPE, WatchedTrainer, train, write_recipe
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer
from tinyzero_trl.generation.engine import SampledBatch
from tinyzero_trl.generation.stages import Stages

ONE_ROLLOUT = {"max_steps": 1, "save_strategy": "no", "window_strategy": "fixed"}


class StagedTrainer(WatchedTrainer):
    """Samples greedily, in training in stages in which `leaving` of the unfinished completions stay behind."""

    ends: tuple[int, ...] = ()
    leaving = 0
    batches_seen: list[SampledBatch]

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        with self.greedily(), self.rollouts.in_stages(Stages(self.ends, self.go_on)):
            return super()._generate_and_score_completions(inputs)

    def go_on(self, batch: SampledBatch) -> list[int] | None:
        self.__dict__.setdefault("batches_seen", []).append(batch)
        return batch.unfinished[self.leaving :]

    @contextmanager
    def greedily(self) -> Iterator[None]:
        if self.use_vllm:
            self.vllm_generation.temperature = 0.0
        else:
            self.generation_config.do_sample = False
        yield


def staged(recipe: Path, ends: tuple[int, ...], leaving: int = 0) -> StagedTrainer:
    trainer_class = type("Staged", (StagedTrainer,), {"ends": ends, "leaving": leaving})
    trainer = train(recipe, trainer_class)
    trainer.rollouts.check_stages(trainer.model)
    return trainer


def completions(trainer: Any) -> list[list[int]]:
    return [ids for batch in trainer.batches for ids in batch.ids]


WAYS = [
    pytest.param({}, id="generate"),
    pytest.param({"use_transformers_continuous_batching": True}, id="continuous", marks=pytest.mark.slow),
    pytest.param(
        {"use_vllm": True, "vllm_max_model_length": 160, "beta": 0.0},
        id="vllm",
        marks=[pytest.mark.vllm, pytest.mark.slow],
    ),
]


@pytest.mark.parametrize("way", WAYS)
def test_stages_in_which_all_go_on_give_the_same_completions(way: dict[str, Any], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, **ONE_ROLLOUT, **way)
    whole, parts = staged(recipe, ()), staged(recipe, (2, 3, 9))
    assert completions(whole) == completions(parts)
    assert len(parts.batches_seen) >= 3 * len(parts.batches) and not hasattr(whole, "batches_seen")
    lengths = {len(ids) for ids in completions(whole)}
    assert min(lengths) < 9 < max(lengths), "completions must end in several stages"
    for batch in parts.batches_seen:
        assert {len(batch.completion_ids[row]) for row in batch.unfinished} <= {batch.limit}


@pytest.mark.parametrize("way", WAYS)
def test_completions_that_stay_behind_are_cut(way: dict[str, Any], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, **ONE_ROLLOUT, **way)
    whole, parts = staged(recipe, ()), staged(recipe, (3, 6), leaving=2)
    cut = 0
    for ours, theirs in zip(completions(parts), completions(whole), strict=True):
        assert ours == theirs[: len(ours)]
        assert len(ours) == len(theirs) or len(ours) in (3, 6)
        cut += len(ours) < len(theirs)
    assert cut > 0
    truncated = [row for batch in parts.batches for row in batch.truncated]
    assert sum(truncated) >= cut


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"use_vllm": True, "vllm_mode": "server"},
            "vllm_mode: 'server' does not sample in stages; set",
        ),
        ({"use_vllm": True, "vllm_enable_sleep_mode": True}, "vllm_enable_sleep_mode: true puts vLLM to sleep between"),
        (
            {"generation_kwargs": {"num_beams": 2}},
            "generation_kwargs: num_beams 2 does not sample in",
        ),
    ],
)
def test_what_cannot_pause_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    trainer = trainer_of(build_model(build_tokenizer()), tmp_path)
    for name, value in fields.items():
        setattr(trainer.args, name, value)
    with pytest.raises(ValueError, match=message):
        trainer.rollouts.check_stages(trainer.model)


# --- what shapes sampling -----------------------------------------------------------------------------------------


def trainer_of(model: Any, folder: Path, **options: Any) -> AdaptiveGRPOTrainer:
    settings: dict[str, Any] = {name: RECIPE[name] for name in ("num_generations", "bf16", "use_cpu", "report_to")}
    settings |= {"output_dir": str(folder), "max_completion_length": 16, "per_device_train_batch_size": 8}
    settings |= {"gradient_checkpointing": False, "max_steps": 1, "save_strategy": "no", "window_strategy": "fixed"}
    return AdaptiveGRPOTrainer(
        model,
        lambda completions, **_: [float(len(text) % 2) for text in completions],
        AdaptiveGRPOConfig(**settings | options),
        train_dataset=Dataset.from_dict({"prompt": ["make 9 of 1 2 3", "make 10 of 1 2 3 4"]}),
        processing_class=build_tokenizer(),
    )


def sampled(trainer: AdaptiveGRPOTrainer) -> list[list[int]]:
    torch.manual_seed(0)
    prompts = [trainer.processing_class(text)["input_ids"] for text in ("make 9 of 1 2 3", "1 2") * 4]
    completion_ids, _ = trainer._generate_single_turn(prompts, None, {}, 4)
    return completion_ids


OWN = [{"min_p": 0.9}, {"typical_p": 0.1}, {"no_repeat_ngram_size": 1}, {"max_length": 12}, {"min_new_tokens": 12}]


@pytest.mark.parametrize("own", OWN, ids=str)
def test_the_models_own_settings_sample_nothing(own: dict[str, Any], tmp_path: Path, caplog: Any) -> None:
    model = build_model(build_tokenizer())
    plain = sampled(trainer_of(model, tmp_path))
    model.generation_config = GenerationConfig(eos_token_id=model.config.eos_token_id, **own)
    with caplog.at_level("INFO", logger="tinyzero_trl"):
        trainer = trainer_of(model, tmp_path)
    assert sampled(trainer) == plain
    assert trainer.model.generation_config.to_diff_dict().items() >= own.items(), "it is saved as it came"
    [(name, value)] = own.items()
    said = [record.getMessage() for record in caplog.records if "generation_config.json" in record.getMessage()]
    remedy = f"{name}: {value}" if name == "min_p" else f"generation_kwargs: {{'{name}': {value}}}"
    if name == "max_length":
        assert said == [], "the window decides how long completions are"
    else:
        [line] = said
        assert f"sets {name}, which" in line and line.endswith(remedy)
    if name in ("min_p", "typical_p"):  # and with what the line says, it does
        wanted = {"min_p": value} if name == "min_p" else {"generation_kwargs": {name: value}}
        assert sampled(trainer_of(model, tmp_path, **wanted)) != plain


def test_a_generate_of_the_users_own_is_called(tmp_path: Path) -> None:
    model, seen = build_model(build_tokenizer()), []
    stock = model.generate

    def generate(**kwargs: Any) -> torch.Tensor:
        seen.append(sorted(kwargs))
        return stock(**kwargs)

    model.generate = generate
    trainer = trainer_of(model, tmp_path)
    assert len(sampled(trainer)) == 8
    assert seen == [["attention_mask", "generation_config", "input_ids"]]
    assert vars(model)["generate"] is generate
    with pytest.raises(ValueError, match="its own generate does not sample in stages"):
        trainer.rollouts.check_stages(trainer.model)


def test_stop_strings_end_completions(tmp_path: Path) -> None:
    common = {**ONE_ROLLOUT, "max_completion_length": 60, "model_name_or_path": "embedded"}
    by_field = train(write_recipe(tmp_path, "field", **common, stop_at_answer=True))
    by_kwargs = train(write_recipe(tmp_path, "kwargs", **common, generation_kwargs={"stop_strings": "</answer>"}))
    assert completions(by_field) == completions(by_kwargs)
    end = by_field.processing_class.convert_tokens_to_ids("</answer>")
    assert any(ids[-1] == end for ids in completions(by_kwargs))
    assert all(end not in ids[:-1] for ids in completions(by_kwargs))
    assert by_kwargs.args.generation_kwargs == {"stop_strings": "</answer>"}, "config.yaml says what was asked for"
