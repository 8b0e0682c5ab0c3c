"""Addition: what ends with the sum is right, and nothing else."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyzero_trl.tasks import get_task
from tinyzero_trl.tasks.datasets import train_test_examples

RESULTS = Path(__file__).parents[2] / "results"
TASK = get_task("addition")
EXAMPLE = {"first": 8, "second": 6}


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("14", "correct"),
        ("The sum of 8 and 6 is 14.", "correct"),
        ("8 + 6 = 14!\n", "correct"),
        ("First 13, no, 14", "correct"),
        ("8 + 6 = 14, which is", "no-number-at-the-end"),  # cut, or more than was asked for
        ("14. That is all.", "no-number-at-the-end"),
        ("8 + 6 = 15", "wrong-sum"),
        ("114", "wrong-sum"),
        ("1.14", "no-number-at-the-end"),
        ("2,14", "no-number-at-the-end"),
        ("14.0", "no-number-at-the-end"),
        ("8 + 6 = \N{ARABIC-INDIC DIGIT ONE}\N{ARABIC-INDIC DIGIT FOUR}", "no-number-at-the-end"),
        ("0" * 5000 + "14", "no-number-at-the-end"),
        ("", "no-number-at-the-end"),
        ("8 + 6 =14", "correct"),
        ("The answer:14", "correct"),
        ("8 + 6\n14", "correct"),
        ("8 + 6 = **14**", "correct"),
        ("The sum is **14.**", "correct"),
        ("**8 + 6 = 14**.", "correct"),
        ("**Answer:** 14", "correct"),
        ("The *sum* 14", "correct"),
        ("7 * 14", "no-number-at-the-end"),
        ("7* 14", "no-number-at-the-end"),
        ("(3 + 4) * 14", "no-number-at-the-end"),
        ("-14", "no-number-at-the-end"),
        ("8 + 6 = - 14", "no-number-at-the-end"),
        ("\N{MINUS SIGN}14", "no-number-at-the-end"),
        ("3/14", "no-number-at-the-end"),
        ("3 / 14", "no-number-at-the-end"),
        ("5e14", "no-number-at-the-end"),
        ("x=10^14", "no-number-at-the-end"),
        ("10 ^ 14", "no-number-at-the-end"),
        ("5 x14", "no-number-at-the-end"),
        ("1 000 014", "no-number-at-the-end"),
        ("1\N{NO-BREAK SPACE}014", "no-number-at-the-end"),
        ("1_014", "no-number-at-the-end"),
        ("3:14", "no-number-at-the-end"),
        ("10**14", "no-number-at-the-end"),
        ("10 ** 14", "no-number-at-the-end"),
        ("10 **14**", "no-number-at-the-end"),
        ("-**14**", "no-number-at-the-end"),
        ("**-14**", "no-number-at-the-end"),
    ],
)
def test_the_sum_at_the_end_is_right(completion: str, reason: str) -> None:
    score = TASK.score(completion, EXAMPLE)
    assert score.reason == reason
    assert score.reward == float(reason == "correct")


@given(st.text())
def test_no_text_raises(completion: str) -> None:
    assert TASK.score(completion, EXAMPLE).reward in (0.0, 1.0)


@pytest.mark.parametrize(
    "file", sorted((RESULTS / "smollm2_cpu/completions").glob("*.jsonl")), ids=lambda file: file.stem
)
def test_published_completions_keep_their_scores(file: Path) -> None:
    for line in map(json.loads, file.read_text().splitlines()):
        first, second = map(int, re.findall(r"\d+", line["prompt"]))
        assert TASK.score(line["completion"], {"first": first, "second": second}) == (line["reward"], line["reason"])


def test_a_chat_asks_for_the_sum() -> None:
    assert TASK.prompt(EXAMPLE, "chat") == [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": "What is 8 + 6?"},
    ]
    with pytest.raises(ValueError, match="template: 'base' is unknown to the task addition; use chat"):
        TASK.prompt(EXAMPLE, "base")


def test_a_sum_is_the_same_in_either_order() -> None:
    train, test = train_test_examples("addition", train_size=40, test_size=15, seed=0, max_summand=10)
    pairs = {tuple(sorted(example.values())) for example in [*train, *test]}
    assert len(pairs) == 55 and all(1 <= low <= high <= 10 for low, high in pairs)
    assert {TASK.difficulty(example) for example in train} == {1, 2}


@pytest.mark.parametrize("largest", [0, -3, 10**9 + 1])
def test_the_largest_number_has_bounds(largest: int) -> None:
    with pytest.raises(ValueError, match=rf"max_summand: {largest} is out of range; use 1 to"):
        TASK.check_options({"max_summand": largest})


def test_a_long_number_before_spaces_is_read_whole() -> None:
    assert TASK.score("1" * 30 + str(EXAMPLE["first"] + EXAMPLE["second"]) + " " * 38, EXAMPLE).reward == 0
    assert TASK.score(str(EXAMPLE["first"] + EXAMPLE["second"]) + " " * 99, EXAMPLE).reward == 1
