"""The first reward function is asked at stage ends and by the trainer; what it logs is of all completions alike."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tinyzero_trl.training.rollout.stage_scores import StageScores

TEXTS = ["right", "wrong", "right", "wrong", "wrong"]


def judge(
    completions: Sequence[str], word: Sequence[str], log_extra: Any, log_metric: Any, **_: Any
) -> list[float | None]:
    rewards: list[float | None] = [float(text == asked) for text, asked in zip(completions, word, strict=True)]
    log_extra("text", list(completions))
    log_metric("right", sum(reward or 0.0 for reward in rewards) / len(rewards))
    return rewards


async def judge_later(**columns: Any) -> list[float | None]:
    return judge(**columns)


def answered(func: Any, *stages: list[int]) -> tuple[list[float | None], dict[str, Any], dict[str, float]]:
    """The trainer's rewards, extra columns and figures, once `stages` of the rows have been scored."""
    trainer = SimpleNamespace(reward_funcs=[func], reward_func_names=["judge"], state=None)
    scores = StageScores(trainer, [{"prompt": "say", "word": "right"} for _ in TEXTS])
    for rows in stages:
        scores.score_finished(rows, [TEXTS[row] for row in rows], [[row] for row in rows])
        assert [scores.reward(row) for row in rows] == [float(TEXTS[row] == "right") for row in rows]
    extras: dict[str, Any] = {}
    figures: dict[str, float] = {}
    columns = {"prompts": ["say"] * 5, "word": ["right"] * 5, "completions": TEXTS}
    columns |= {"completion_ids": [[row] for row in range(5)]}
    logs = {"trainer_state": None, "log_extra": extras.__setitem__, "log_metric": figures.__setitem__}
    with scores.in_place():
        rewards = trainer.reward_funcs[0](**columns, **logs)
    return (asyncio.run(rewards) if asyncio.iscoroutine(rewards) else rewards), extras, figures


@pytest.mark.parametrize("stages", [(), ([0],), ([0, 1], [3]), ([2], [0, 1, 3, 4])], ids=str)
def test_what_is_logged_does_not_depend_on_the_stages(stages: tuple[list[int], ...]) -> None:
    rewards, extras, figures = answered(judge, *stages)
    assert rewards == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert extras == {"text": TEXTS}
    assert figures == {"right": pytest.approx(0.4)}


@pytest.mark.parametrize("func", [judge, judge_later])
def test_after_a_rollout_the_trainer_has_its_own_functions_again(func: Any) -> None:
    own = [func, judge]
    trainer = SimpleNamespace(reward_funcs=own, state=None)
    with pytest.raises(KeyboardInterrupt), StageScores(trainer, []).in_place():
        assert trainer.reward_funcs[0] is not func and trainer.reward_funcs[1] is judge
        raise KeyboardInterrupt
    assert trainer.reward_funcs is own and own == [func, judge]


def test_an_asynchronous_function_is_asked_for_the_rest_too() -> None:
    assert answered(judge_later) == ([1.0, 0.0, 1.0, 0.0, 0.0], {"text": TEXTS}, {"right": pytest.approx(0.4)})


def too_few(completions: Sequence[str], **_: Any) -> list[float | None]:
    return [1.0] * (len(completions) - 1)


async def too_few_later(**columns: Any) -> list[float | None]:
    return too_few(**columns)


def too_many_extras(completions: Sequence[str], log_extra: Any, **_: Any) -> list[float | None]:
    log_extra("text", [*completions, "more"])
    return [1.0] * len(completions)


@pytest.mark.parametrize(
    ("func", "stages", "message"),
    [
        (too_few, [[1, 3]], "reward_funcs: 'judge' returned 1 values for 2 completions; give one for each"),
        (too_few, [], "reward_funcs: 'judge' returned 4 values for 5 completions"),
        (too_few_later, [], "reward_funcs: 'judge' returned 4 values for 5 completions"),
        (too_many_extras, [[1, 3]], "log_extra: 'text' has 3 values for 2 completions; give one for each"),
    ],
)
def test_one_value_too_few_or_too_many_is_named(func: Any, stages: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        answered(func, *stages)


@pytest.mark.parametrize("stages", [[], [[1, 3]]], ids=str)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda count: None, "'judge' returned None; let it return a list"),
        (lambda count: 1.0, "'judge' returned 1.0; let it return a list"),
        (lambda count: ["1"] * count, "'judge' returned '1' for a completion; give a number, or None"),
        (lambda count: [[1.0]] * count, r"'judge' returned \[1.0\] for a completion; give a number"),
    ],
)
def test_what_is_no_list_of_rewards_is_named(value: Any, message: str, stages: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=f"^reward_funcs: {message}"):
        answered(lambda completions, **_: value(len(completions)), *stages)


@pytest.mark.parametrize(
    "changed",
    [
        {"completions": [text.upper() for text in TEXTS]},
        {"completion_ids": [[7]] * 5},
        {"prompts": ["answer"] * 5},
        {"word": ["wrong"] * 5},
        {"hint": ["none"] * 5},
        {"completions": TEXTS[:2]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_call_about_others_than_have_a_score_is_refused(changed: dict[str, list[Any]]) -> None:
    """As of a trainer that samples twice in a rollout; the same completions may be asked about again."""
    trainer = SimpleNamespace(reward_funcs=[judge], reward_func_names=["judge"], state=None)
    scores = StageScores(trainer, [{"prompt": "say", "word": "right"} for _ in TEXTS])
    scores.score_finished([1, 3], ["wrong", "wrong"], [[1], [3]])
    columns = {"prompts": ["say"] * 5, "word": ["right"] * 5, "completions": TEXTS}
    columns |= {"completion_ids": [[row] for row in range(5)]}
    logs = {"trainer_state": None, "log_extra": lambda *_: None, "log_metric": lambda *_: None}

    with scores.in_place():
        with pytest.raises(ValueError, match="SimpleNamespace samples a rollout several times, or changes"):
            trainer.reward_funcs[0](**columns | changed, **logs)
        for _ in range(2):
            assert trainer.reward_funcs[0](**columns, **logs) == [1.0, 0.0, 1.0, 0.0, 0.0]
