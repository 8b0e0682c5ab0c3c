"""Verdicts in TRL's signature, and the cosine shaping against its paper."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from tinyzero_trl.tasks import Example, Score, Task, countdown
from tinyzero_trl.tasks.config import TaskConfig
from tinyzero_trl.tasks.rewards import CosineShaping, completion_text, reward_functions
from tinyzero_trl.training.recipe.parser import parse_recipe
from tinyzero_trl.training.run import _rewards

RIGHT, WRONG = "</think>\n<answer>(1 + 2) * 3</answer>", "</think>\n<answer>1 + 2 + 3</answer>"
COLUMNS = {"numbers": [[1, 2, 3]] * 2, "target": [9, 9]}


def call(function, completions, **columns):
    """As TRL calls a reward function: every dataset column, and more than ours ask for."""
    prompts = ["p"] * len(completions)
    return function(prompts=prompts, completions=completions, trainer_state=object(), difficulty=[3, 3], **columns)


def test_the_score_is_the_tasks_own() -> None:
    [verdict], weights = reward_functions("countdown")
    assert weights is None
    rewards = call(verdict, [RIGHT, WRONG], completion_ids=[[1], [2]], **COLUMNS)
    assert rewards == [countdown.score(text, [1, 2, 3], 9).reward for text in (RIGHT, WRONG)]
    assert rewards[0] == 1.0 > rewards[1]


def test_a_conversational_completion_is_judged_by_its_last_message() -> None:
    [verdict], _ = reward_functions("countdown")
    chats = [[{"role": "assistant", "content": WRONG}, {"role": "assistant", "content": RIGHT}]]
    assert call(verdict, chats, numbers=[[1, 2, 3]], target=[9]) == [1.0]
    assert completion_text(chats[0]) == RIGHT
    assert completion_text("plain") == "plain"


def test_reasons_are_logged_one_per_completion() -> None:
    [verdict], _ = reward_functions("countdown")
    logged = {}
    call(verdict, [RIGHT, "no answer"], log_extra=logged.__setitem__, **COLUMNS)
    assert logged == {"reason": [countdown.score(text, [1, 2, 3], 9).reason for text in (RIGHT, "no answer")]}


def test_a_column_of_the_wrong_length_is_an_error() -> None:
    [verdict], _ = reward_functions("countdown")
    with pytest.raises(ValueError, match=r"shorter|longer"):
        call(verdict, [RIGHT], **COLUMNS)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^task: 'chess' is unknown"):
        reward_functions("chess")


def test_with_shaping_the_verdict_stays_first_and_weighs_nothing() -> None:
    functions, weights = reward_functions("countdown", CosineShaping(100))
    assert weights == [0.0, 1.0]
    completion_ids = [[7] * 50, [7] * 50]
    verdicts, shaped = (
        call(function, [RIGHT, WRONG], completion_ids=completion_ids, **COLUMNS) for function in functions
    )
    assert verdicts == [1.0, countdown.score(WRONG, [1, 2, 3], 9).reward]
    assert shaped == pytest.approx([1.5, -5.0])


def test_shaping_logs_no_reason_of_its_own() -> None:
    """TRL gathers one column per name: a second entry per completion would misplace every row of the table."""
    functions, _ = reward_functions("countdown", CosineShaping(100))
    logged = []
    for function in functions:
        call(function, [RIGHT, WRONG], completion_ids=[[1], [1]], log_extra=lambda *row: logged.append(row), **COLUMNS)
    assert len(logged) == 1


class Partly(Task):
    """Pays 0.8 for whatever is written."""

    columns: ClassVar[Mapping[str, type]] = {"question": str}

    def question(self, example: Example) -> str:
        return str(example["question"])

    def score(self, completion: str, example: Example) -> Score:
        return Score(0.8, "partly")


def test_shaping_calls_a_success_what_the_run_does() -> None:
    for threshold, reward in ((0.5, 1.5), (1.0, -5.0)):
        _, cosine = reward_functions(Partly(), CosineShaping(100), threshold)[0]
        assert cosine(["x"], completion_ids=[[7] * 50], question=["q"]) == pytest.approx([reward])


def test_the_recipes_threshold_reaches_the_shaping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = ["--reward_shaping", "cosine", "--output_dir", str(tmp_path), "--window_success_threshold", "0.1"]
    task, training, _ = parse_recipe(["--config", "countdown_tiny", *fields])
    monkeypatch.setattr(countdown.Countdown, "score", Partly.score)
    functions, _ = _rewards(task, training)
    verdicts, shaped = (call(function, [RIGHT, WRONG], completion_ids=[[1], [1]], **COLUMNS) for function in functions)
    assert verdicts == [0.8, 0.8] and min(shaped) > 0


@pytest.mark.parametrize(
    ("correct", "length", "reward"),
    [
        (True, 0, 2.0),  # 2502.03373: a right answer earns 2 when short, 1 when long,
        (True, 50, 1.5),
        (True, 25, 1.5 + 0.5 * math.sqrt(0.5)),
        (False, 0, -10.0),  # a wrong one loses 10 when short, nothing when long,
        (False, 50, -5.0),
        (True, 100, -10.0),  # and whatever reaches the maximum loses 10.
        (False, 100, -10.0),
        (True, 130, -10.0),
    ],
)
def test_cosine_shaping_pays_what_the_paper_pays(correct: bool, length: int, reward: float) -> None:
    assert CosineShaping(100).reward(correct, length) == pytest.approx(reward)


def test_cosine_shaping_ends_at_its_values_for_the_longest_completion() -> None:
    shaping = CosineShaping(10_000)
    assert shaping.reward(True, 9_999) == pytest.approx(1.0, abs=1e-6)
    assert shaping.reward(False, 9_999) == pytest.approx(0.0, abs=1e-6)
    lengths = range(0, 10_000, 100)
    right, wrong = ([shaping.reward(correct, length) for length in lengths] for correct in (True, False))
    assert right == sorted(right, reverse=True) and wrong == sorted(wrong)


def test_a_task_configuration_makes_its_shaping_from_the_configured_maximum() -> None:
    assert TaskConfig().shaping(512) is None
    shaping = TaskConfig(reward_shaping="cosine", cosine_over_length=-3.0).shaping(512)
    assert shaping == CosineShaping(512, over_length=-3.0)
    assert shaping.reward(True, 300) > 0, "a window below the maximum makes no completion over-long"
