"""The evaluator alone: rows that are answered twice to fill a batch count once."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from tinyzero_trl.training.held_out import HeldOutEvaluator, numbered
from tinyzero_trl.training.scoring import gather_rollout, score_rows


def evaluator(**settings: Any) -> HeldOutEvaluator:
    args = {
        "window_config": lambda: SimpleNamespace(success_threshold=1.0),
        **{"num_generations": 4, "num_generations_eval": 1, "metric_for_best_model": None},
        **{"process_index": 0, "device": torch.device("cpu")},
    }
    return HeldOutEvaluator(SimpleNamespace(**args | settings))  # type: ignore[arg-type]


def scored(rewards: list[float], source: str = "eval", **options: Any) -> Any:
    count = len(rewards)
    return score_rows(
        torch.tensor([[reward, 9.0] for reward in rewards]),
        options.get("inputs", [{}] * count),
        ["p"] * count,
        [f"c{row}" for row in range(count)],
        [[5] * (row + 1) for row in range(count)],
        reasons=options.get("reasons", []),
        is_truncated=lambda ids, text: len(ids) == 2,
        process_index=0,
        source=source,
    )


def test_an_example_that_fills_up_a_batch_counts_once() -> None:
    held_out, examples = evaluator(), [{"held_out_number": number} for number in (0, 1, 2, 0)]
    seeds = []

    def evaluate() -> dict[str, float]:
        seeds.append(torch.initial_seed())
        held_out.add(examples, scored([1.0, 0.0, 0.0, 1.0]))
        return {"eval_reward": 0.5}

    state = torch.get_rng_state()
    metrics, evaluation = held_out.measure(evaluate, seed=11)
    assert metrics["eval/n"] == 3 and metrics["eval/acc"] == pytest.approx(1 / 3)
    assert metrics["eval_reward"] == 0.5
    assert [sample["completion"] for sample in evaluation.samples] == ["c0", "c1", "c2"]
    assert seeds == [11] and torch.equal(torch.get_rng_state(), state)


def test_numbers_are_given_once() -> None:
    examples = numbered(Dataset.from_dict({"prompt": ["a", "b"]}))
    assert numbered(examples).column_names == examples.column_names


def test_the_figure_that_chooses_the_best_model_is_found_by_trainer() -> None:
    held_out = evaluator(metric_for_best_model="eval/acc")
    assert not held_out.needs_loss and evaluator(metric_for_best_model="eval_loss").needs_loss

    def evaluate() -> dict[str, float]:
        held_out.add([{}, {}], scored([1.0, 0.0]))
        return {}

    metrics, _ = held_out.measure(evaluate, seed=0)
    assert metrics["eval_eval/acc"] == metrics["eval/acc"] == 0.5


def test_rows_are_scored_by_the_first_function_and_samples_are_of_this_rank() -> None:
    inputs = [{"difficulty": 3}, {"difficulty": "hard"}, {"difficulty": True}]
    rows = scored([1.0, float("nan"), float("inf")], reasons=["a", "b", "c", "of another function"], inputs=inputs)
    assert rows.rewards == [1.0, 0.0, 0.0], "no number, no success"
    assert (rows.lengths, rows.truncated, rows.difficulties) == ([1, 2, 3], [False, True, False], [3, 0, 0])
    assert [sample["reason"] for sample in rows.samples] == ["a", "b", "c"]
    assert [sample["reason"] for sample in scored([0.0]).samples] == [""]


def test_a_rollout_is_made_of_groups_in_order() -> None:
    accelerator: Any = SimpleNamespace(gather=lambda table: table)
    rollout = gather_rollout(
        accelerator,
        scored([1.0, 0.0, 0.0, 1.0], "train"),
        torch.tensor([7, 7, 8, 8]),
        **{"step": 3, "window": 2, "num_generations": 2, "optimizer_steps": 1, "duration_s": 0.5},
    )
    seen = rollout.observation
    assert (seen.step, seen.window, seen.groups, seen.lengths) == (3, 2, [0, 0, 1, 1], [1, 2, 3, 4])
    assert (seen.truncated, rollout.prompt_lengths, rollout.difficulties) == (
        *([False, True, False, False], [7, 7, 8, 8]),
        None,
    )
