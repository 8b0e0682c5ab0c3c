"""Rollouts in stages whose groups stop by a decision of the window policy, in the real trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import AddedToken

from tests.support import groups_by_ranks
from tests.support.groups_by_ranks import GLOBAL_BATCH, LONGEST, STEPS
from tests.support.ranks import run_on_ranks
from tests.support.tiny_models import THINKING, build_model, build_tokenizer
from tests.support.training import LONGEST as LONGEST_OF_RECIPE
from tests.support.training import train, write_recipe
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer
from tinyzero_trl.runs.records import read_run

STAGE_ENDS = (4, 8, 16, LONGEST)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return groups_by_ranks.train()


def test_groups_stop_at_stage_ends_once_enough_is_known(alone: dict[str, Any]) -> None:
    stopped = [rollout["stopped_frac"] for rollout in alone["rollouts"]]
    assert stopped[:2] == [0, 0] and max(stopped[2:]) > 0.2
    for rollout in alone["rollouts"]:
        lengths, size = rollout["lengths"], 4
        groups = [lengths[first : first + size] for first in range(0, len(lengths), size)]
        cut_short = sum(max(group) in STAGE_ENDS[:-1] and group.count(max(group)) > 0 for group in groups)
        assert cut_short >= rollout["stopped_frac"] * len(groups) - 1e-9
        assert set(rollout["labels"]) == {"any"}


def test_the_score_is_asked_about_each_completion_once(alone: dict[str, Any]) -> None:
    assert alone["asked"] == GLOBAL_BATCH * STEPS


def test_a_success_is_from_the_threshold_on_at_stage_ends_and_afterwards(alone: dict[str, Any]) -> None:
    scaled = groups_by_ranks.train(groups_by_ranks.nine_tenths, window_success_threshold=0.9, scale_rewards="group")
    assert scaled["rollouts"] == alone["rollouts"]


@pytest.mark.slow
def test_one_process_and_two_are_the_same_run(alone: dict[str, Any]) -> None:
    together = run_on_ranks(2, "groups_by_ranks")
    assert len(together) == 2, "a launch that falls back to one process would prove nothing"
    for seen in together:
        assert seen["rollouts"] == alone["rollouts"]
        assert seen["losses"] == pytest.approx(alone["losses"], rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_the_first_rank_decides_for_all(alone: dict[str, Any]) -> None:
    """Otherwise a rank whose policy answers differently would wait for ever for the others."""
    lengths = [rollout["lengths"] for rollout in alone["rollouts"]]
    for seen in run_on_ranks(2, "groups_by_ranks", "contradict"):
        assert [rollout["lengths"] for rollout in seen["rollouts"]] == lengths


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window_label_column": "colour"}, "window_label_column: 'colour' is not a column of the training data; name"),
        ({"generation_kwargs": {"num_beams": 2}}, "generation_kwargs: num_beams 2 does not sample in stages; remove"),
        (
            {"generation_kwargs": {"min_new_tokens": 4}},
            "min_new_tokens 4 would start anew in each stage; remove it, or",
        ),
    ],
)
def test_what_cannot_be_decided_per_group_is_refused_before_training(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, window_strategy="group", **fields)
    for weights in (tmp_path / "model").glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(ValueError, match=message):
        train(recipe)


def test_the_recipe_program_samples_in_stages_and_evaluates_at_full_length(tmp_path: Path) -> None:
    trainer = train(write_recipe(tmp_path, window_strategy="group", eval_steps=6))
    training = [batch for batch in trainer.batches if batch.training]
    cut = {length for batch in training for length, cut in zip(batch.lengths, batch.truncated, strict=True) if cut}
    assert cut == {12, LONGEST_OF_RECIPE}, "stopped at the first stage, or at the end"
    assert max(max(batch.lengths) for batch in trainer.batches if not batch.training) == LONGEST_OF_RECIPE
    lines = read_run(tmp_path / "run").metrics
    assert all(line["adaptive_window/current_window"] == LONGEST_OF_RECIPE for line in lines)
    for line in lines:
        fates = [line[f"group_window/{fate}_frac"] for fate in ("stopped", "continued", "explored")]
        assert sum(fates) == pytest.approx(1)
        assert (line["group_window/stopped_frac"] > 0) == (line["group_window/tokens_saved_frac"] > 0)


@pytest.mark.parametrize("is_chat", [True, False])
@pytest.mark.parametrize("template", [None, THINKING])
def test_a_stage_scores_the_completions_that_trl_makes(template: Any, is_chat: bool, tmp_path: Path) -> None:
    """A tokenizer with a response template has a turn taken apart into reasoning and content."""
    scored: list[tuple[tuple[int, ...], Any]] = []
    made: list[tuple[tuple[int, ...], Any]] = []

    def score(completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        scored.extend(zip(map(tuple, completion_ids), completions, strict=True))
        return [1.0] * len(completions)

    class Watched(AdaptiveGRPOTrainer):
        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
            made.extend(zip(map(tuple, completion_ids_list), completions, strict=True))
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    tokenizer = build_tokenizer()
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>")])
    tokenizer.response_template = template
    prompts: list[Any] = ["1 2 3", "4 4 4 4", "9 8", "7"]
    prompts = [[{"role": "user", "content": text}] for text in prompts] if is_chat else prompts
    settings: dict[str, Any] = {"window_strategy": "group", "window_first_stage": 8, "max_completion_length": 24}
    settings |= {"num_generations": 4, "per_device_train_batch_size": 16, "max_steps": 2, "save_strategy": "no"}
    settings |= {"bf16": False, "use_cpu": True, "report_to": "none"}
    trainer = Watched(
        build_model(tokenizer),
        score,
        AdaptiveGRPOConfig(str(tmp_path), **settings),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )
    trainer.train()
    at_stage_ends = [ids for ids, _ in scored if len(ids) < 18]
    assert len(at_stage_ends) >= 4, "completions must finish before the last stage"
    assert sorted(scored, key=str) == sorted(made, key=str)
    parsed = [completion for _, completion in scored if isinstance(completion, list) and len(completion[0]) > 2]
    assert bool(parsed) == (is_chat and template is not None)


def test_a_probe_of_signal_stops_the_groups_that_do_not_measure(tmp_path: Path) -> None:
    fields = {"window_initial": 12, "window_min": 8, "window_probe_every": 4, "window_memory_rollouts": 8}
    trainer = train(write_recipe(tmp_path, window_strategy="signal", window_probe_group_every=2, **fields))
    batch = [batch for batch in trainer.batches if batch.training][1]  # the second rollout is a probe
    limits = {length for length, cut in zip(batch.lengths, batch.truncated, strict=True) if cut}
    assert batch.window == LONGEST_OF_RECIPE and len(limits) == 2 and max(limits) == LONGEST_OF_RECIPE


def test_a_probe_in_stages_is_refused_where_a_rollout_cannot_pause(tmp_path: Path) -> None:
    message = "generation_kwargs: num_beams 2 does not sample in stages; remove"
    with pytest.raises(ValueError, match=message):
        fields: dict[str, Any] = {"window_probe_group_every": 2, "generation_kwargs": {"num_beams": 2}}
        train(write_recipe(tmp_path, window_strategy="signal", **fields))


def test_a_reward_model_in_front_is_refused_before_the_first_rollout(tmp_path: Path) -> None:
    """It scores whole batches, and a stage end asks about some completions."""
    tokenizer = build_tokenizer()
    settings: dict[str, Any] = {"num_generations": 4, "per_device_train_batch_size": 16, "max_steps": 1}
    settings |= {"bf16": False, "use_cpu": True, "report_to": "none", "save_strategy": "no"}
    trainer = AdaptiveGRPOTrainer(
        build_model(tokenizer),
        lambda completions, **_: [0.0] * len(completions),
        AdaptiveGRPOConfig(
            str(tmp_path), window_strategy="group", window_first_stage=8, max_completion_length=24, **settings
        ),
        train_dataset=Dataset.from_dict({"prompt": ["1", "2", "3", "4"]}),
        processing_class=tokenizer,
    )
    trainer.reward_funcs = [torch.nn.Linear(1, 1)]
    with pytest.raises(ValueError, match=r"^window_strategy: a rollout in stages needs scores at stage ends"):
        trainer.train()
    assert not (tmp_path / "metrics.jsonl").exists()
