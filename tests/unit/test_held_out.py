"""The evaluator alone: rows that are answered twice to fill a batch count once."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from tinyzero_trl.metrics import describe
from tinyzero_trl.training.held_out import HeldOutEvaluator, random_numbers_of_its_own
from tinyzero_trl.training.rollout.scoring import SAMPLED_COMPLETIONS, _warn_of_reasons, gather_rollout, score_rows


def evaluator(success_threshold: float = 1.0, **settings: Any) -> HeldOutEvaluator:
    args = {
        "window_config": lambda: SimpleNamespace(success_threshold=success_threshold),
        **{"num_generations": 4, "num_generations_eval": 1, "metric_for_best_model": None},
        "compute_eval_loss": False,
        "device": torch.device("cpu"),
    }
    return HeldOutEvaluator(SimpleNamespace(**args | settings))  # type: ignore[arg-type]


def scored(rewards: list[float], source: str = "eval", **options: Any) -> Any:
    count = len(rewards)
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(process_index=0),
        model=SimpleNamespace(training=source == "train"),
        rollouts=SimpleNamespace(ends=SimpleNamespace(is_cut=lambda ids: len(ids) == 2)),
    )
    return score_rows(
        trainer,
        torch.tensor([[reward, 9.0][: options.get("functions", 2)] for reward in rewards]),
        options.get("inputs", [{}] * count),
        ["p"] * count,
        [f"c{row}" for row in range(count)],
        [[5] * (row + 1) for row in range(count)],
        options.get("reasons", ()),
    )


def test_an_answer_is_right_from_the_threshold_of_the_run_on() -> None:
    held_out = evaluator(success_threshold=0.9)
    data = held_out.numbers.given_to(Dataset.from_dict({"prompt": ["a", "b", "c", "d"]}))

    def evaluate() -> dict[str, float]:
        held_out.add(list(data), scored([0.9, 0.89, 1.0, 0.0]))
        return {}

    metrics, _ = held_out.measure(evaluate, seed=0)
    assert metrics["eval/acc"] == 0.5


def test_an_example_that_fills_up_a_batch_counts_once() -> None:
    held_out = evaluator()
    data = held_out.numbers.given_to(Dataset.from_dict({"prompt": ["a", "b", "c"]}))
    examples = [data[number] for number in (0, 1, 2, 0)]
    seeds = []

    def evaluate() -> dict[str, float]:
        seeds.append(torch.initial_seed())
        held_out.add(examples, scored([1.0, 0.0, 0.0, 1.0]))
        return {"eval_reward": 0.5}

    state = torch.get_rng_state()
    metrics, evaluation = held_out.measure(evaluate, seed=11)
    assert metrics["eval/n"] == 3 and metrics["eval/acc"] == pytest.approx(1 / 3)
    assert metrics["eval_reward"] == 0.5 and evaluation is not None
    assert [sample["completion"] for sample in evaluation.samples] == ["c0", "c1", "c2"]
    assert seeds == [11] and torch.equal(torch.get_rng_state(), state)


def test_the_texts_that_are_recorded_alone_go_to_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[dict[str, Any]] = []

    def gather(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        gathered.extend(rows)
        return rows

    monkeypatch.setattr("tinyzero_trl.training.held_out.gather_object", gather)
    data, rows = Dataset.from_dict({"prompt": [*map(str, range(12))]}), SAMPLED_COMPLETIONS
    held_out = evaluator()

    def evaluate() -> dict[str, float]:
        for half in (range(6), range(6, 12)):
            held_out.add([held_out.numbers.given_to(data)[number] for number in half], scored([1.0] * 6))
        return {}

    metrics, evaluation = held_out.measure(evaluate, seed=0)
    assert ["completion" in row for row in gathered] == [True] * rows + [False] * (12 - rows)
    assert metrics["eval/n"] == 12 and evaluation is not None and len(evaluation.samples) == rows


def test_numbers_are_given_once_beside_whatever_columns_the_user_has() -> None:
    held_out = evaluator()
    own = {"prompt": ["a", "b"], "_held_out_number": [7, 7], "held_out_number": [7, 7]}
    others = held_out.numbers.given_to(Dataset.from_dict({"prompt": ["c"]}))
    examples = held_out.numbers.given_to(Dataset.from_dict(own))
    given = Dataset.from_dict({"prompt": ["d"]})
    assert held_out.numbers.given_to(given) is held_out.numbers.given_to(given), (
        "evaluated again and again, it is kept once"
    )
    assert held_out.numbers.taken_from(list(examples)) == list(Dataset.from_dict(own))
    assert held_out.numbers.taken_from(list(others)) == [{"prompt": "c"}]

    def evaluate() -> dict[str, float]:
        held_out.add(list(examples), scored([1.0, 0.0]))
        return {}

    assert held_out.measure(evaluate, seed=0)[0]["eval/n"] == 2, "a column of the user's is no number of ours"


def test_without_numbers_the_prompt_says_which_problem_is_answered() -> None:
    """As in a stream. Two examples with the same prompt are one problem, and each of their answers counts."""
    chat, rewards = [{"role": "user", "content": "b"}], [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    given: list[dict[str, Any]] = [{"prompt": prompt} for prompt in ("a", "a", chat, chat, "a", "a", "c", "c")]
    data = Dataset.from_dict({"prompt": ["a", "b", "a", "c"]})

    def figures(examples: list[dict[str, Any]], held_out: HeldOutEvaluator) -> dict[str, float]:
        def evaluate() -> dict[str, float]:
            for batch in (slice(0, 3), slice(3, 8)):
                held_out.add(examples[batch], scored(rewards[batch]))
            return {}

        return held_out.measure(evaluate, seed=0)[0]

    stream = figures(given, evaluator(num_generations_eval=2))
    assert (stream["eval/acc"], stream["eval/n"], stream["eval/problems"]) == (3 / 8, 8, 3)
    owned = figures([{"environment": name} for name in "aabbccdd"], evaluator(num_generations_eval=2))
    assert (owned["eval/n"], owned["eval/problems"]) == (8, 4), "TRL takes examples without prompts then"
    held_out = evaluator(num_generations_eval=2)
    numbered = figures([row for row in held_out.numbers.given_to(data) for _ in range(2)], held_out)
    assert (numbered["eval/n"], numbered["eval/problems"]) == (8, 4)


def test_each_of_several_sets_has_figures_of_its_own_and_all_of_them_together() -> None:
    held_out = evaluator(num_generations_eval=2)
    sets = held_out.numbers.given_to(
        {"easy": Dataset.from_dict({"prompt": ["a"]}), "hard": Dataset.from_dict({"prompt": "bc"})}
    )
    rewards = {"easy": [1.0, 1.0], "hard": [0.0, 0.0, 1.0, 0.0]}

    def evaluate_all() -> dict[str, float]:
        metrics: dict[str, float] = {}
        for name, data in sets.items():
            rows = [row for row in data for _ in range(2)]

            def evaluate(rows=rows, name=name) -> dict[str, float]:
                held_out.add(rows, scored(rewards[name]))
                return {f"eval_{name}_runtime": 0.1}

            inner, evaluation = held_out.measure(evaluate, seed=0, prefix=f"eval_{name}")
            assert evaluation is None
            metrics |= inner
        return metrics

    metrics, evaluation = held_out.measure(evaluate_all, sets, seed=0)
    assert evaluation is not None and evaluation.figures.items() <= metrics.items()
    assert next(iter(evaluation.figures)) == "eval/acc", "records name the figures of all sets first"
    assert {name: value for name, value in metrics.items() if name.endswith(("/acc", "/n", "/problems"))} == {
        **{"eval/acc": 0.5, "eval/n": 6, "eval/problems": 3},
        **{"eval_easy/acc": 1.0, "eval_easy/n": 2, "eval_easy/problems": 1},
        **{"eval_hard/acc": 0.25, "eval_hard/n": 4, "eval_hard/problems": 2},
    }
    assert metrics["eval_hard_runtime"] == 0.1
    assert [name for name in evaluation.figures if describe(name) is None] == [], "every logged name is documented"


def test_an_evaluation_under_a_name_of_the_users_is_none_of_the_run() -> None:
    held_out = evaluator()

    def evaluate() -> dict[str, float]:
        held_out.add([{"prompt": "a"}], scored([1.0]))
        return {"test_runtime": 0.1}

    metrics, evaluation = held_out.measure(evaluate, seed=0, prefix="test")
    assert (metrics["test/acc"], evaluation) == (1.0, None)


def test_the_figure_that_chooses_the_best_model_is_found_by_trainer() -> None:
    held_out = evaluator(metric_for_best_model="eval/acc")
    assert held_out.needs_loss, "outside of an evaluation, in `predict`"

    def evaluate() -> dict[str, float]:
        held_out.add([{"prompt": "a"}, {"prompt": "b"}], scored([1.0, 0.0]))
        return {}

    metrics, _ = held_out.measure(evaluate, seed=0)
    for name, is_needed in (("eval/acc", False), ("eval_loss", True)):
        other = evaluator(metric_for_best_model=name)
        assert other.measure(lambda other=other: {"loss": other.needs_loss}, seed=0)[0]["loss"] == is_needed
    assert metrics["eval_eval/acc"] == metrics["eval/acc"] == 0.5


def test_the_random_numbers_of_an_evaluation_are_none_of_training() -> None:
    def drawn() -> list[float]:
        return [float(torch.rand(())), float(np.random.random()), random.random()]

    def start() -> None:
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)

    start()
    expected = [drawn() for _ in range(2)]
    start()
    before, evaluations = drawn(), []
    for _ in range(2):
        with random_numbers_of_its_own(7, torch.device("cpu")):
            evaluations.append(drawn())
    assert [before, drawn()] == expected, "of torch, NumPy and Python"
    assert evaluations[0] == evaluations[1], "an evaluation draws from its own seed"


def test_rows_are_scored_by_the_first_function_and_samples_are_of_this_rank() -> None:
    inputs = [{"difficulty": 3}, {"difficulty": " very\nhard"}, {"difficulty": True}]
    rows = scored([1.0, float("nan"), float("inf")], reasons=[["a", "b", "c"], ["of another function"]], inputs=inputs)
    assert rows.rewards == [1.0, None, None], "no number, no score"
    assert (rows.lengths, rows.truncated, rows.difficulties) == ([1, 2, 3], [False, True, False], [3, "very hard", 0])
    assert [sample["reason"] for sample in rows.samples] == ["a", "b", "c"]
    assert [sample["reason"] for sample in scored([0.0]).samples] == [""]


@pytest.mark.parametrize(
    ("calls", "functions", "found"),
    [
        ([["a", "b"]], 1, ["", "", ""]),
        ([["a"], ["b", "c"]], 1, ["a", "b", "c"]),
        ([["a"], ["b", "c"]], 2, ["", "", ""]),
        ([["a"], ["b", "c", "d"]], 2, ["b", "c", "d"]),
        ([["a", "b", "c", "d"]], 1, ["", "", ""]),
    ],
    ids=str,
)
def test_no_reason_is_given_to_a_row_that_it_may_not_be_of(
    calls: list[list[str]], functions: int, found: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    _warn_of_reasons.cache_clear()
    for _ in range(2):
        rows = scored([1.0, 0.0, 0.0], reasons=calls, functions=functions)
        assert [sample["reason"] for sample in rows.samples] == found
    assert len(caplog.messages) == (found == ["", "", ""])
    assert all(text.startswith("log_extra: no reward function gave a reason for each") for text in caplog.messages)


def test_a_rollout_is_made_of_groups_in_order() -> None:
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(gather=lambda table: table),
        groups=SimpleNamespace(facts=lambda: {"labels": ["a", "a", "b", "b"]}),
        **{"state": SimpleNamespace(global_step=3), "num_generations": 2},
        args=SimpleNamespace(steps_per_generation=4, num_iterations=2, gradient_accumulation_steps=2),
    )
    rollout = gather_rollout(
        trainer,
        scored([1.0, 0.0, 0.0, 1.0], "train"),
        torch.tensor([7, 7, 8, 8]),
        window=2,
        duration_s=0.5,
    )
    seen = rollout.observation
    assert (seen.step, seen.window, seen.groups, seen.lengths) == (3, 2, [0, 0, 1, 1], [1, 2, 3, 4])
    assert seen.optimizer_steps == 4
    assert seen.labels == ["a", "a", "b", "b"]
    assert (seen.truncated, rollout.prompt_lengths, rollout.difficulties) == (
        *([False, True, False, False], [7, 7, 8, 8]),
        None,
    )
