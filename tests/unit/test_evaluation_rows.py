"""The rows of an evaluation: intervals that cover, figures, and a work file that survives a kill."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero_trl.evaluation import format_result
from tinyzero_trl.evaluation.rows import SCHEMA, WorkFile, summarise, write_rows
from tinyzero_trl.evaluation.trained_by import find_run
from tinyzero_trl.metrics import accuracy_interval, wilson_interval
from tinyzero_trl.windows.outcomes import as_reward

OUTCOMES = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=12)
)


def row(problem: int, sample: int, **changed: Any) -> dict[str, Any]:
    plain = {
        "prompt": "p",
        "completion": "c",
        "numbers": [1, 2, 3],
        "target": 6,
        "reward": 0.0,
        "reason": "no-answer-tag",
        "length": 10,
        "truncated": False,
        "difficulty": 3,
        "problem_index": problem,
        "sample_index": sample,
        "prompt_length": 7,
    }
    assert plain.keys() == {*SCHEMA.names, "numbers", "target"}
    return plain | changed


def test_figures_of_a_worked_example() -> None:
    correct = {"reward": 1.0, "reason": "correct"}
    figures = summarise(
        [
            row(0, 0, length=4, **correct),
            row(0, 1, length=6, **correct),
            row(1, 0, length=20, truncated=True),
            row(1, 1, length=12, difficulty=3, **correct),
            row(2, 0, difficulty=4, length=1, reason="wrong-value"),
            row(2, 1, difficulty=4, length=2),
        ]
    )
    assert (figures["acc"], figures["reward"], figures["problems"], figures["generations"]) == (0.5, 0.5, 3, 6)
    assert figures["truncated_frac"] == pytest.approx(1 / 6)
    assert (figures["mean_length"], figures["correct_mean_length"]) == (45 / 6, 22 / 3)
    assert figures["tokens"] == {"prompt_total": 42, "response_total": 45, "overall_total": 87}
    assert figures["reasons"] == {"correct": 3, "no-answer-tag": 2, "wrong-value": 1}
    assert {level: (each["acc"], each["problems"]) for level, each in figures["difficulty"].items()} == {
        "3": (0.75, 2),
        "4": (0.0, 1),
    }
    assert figures["pass_at_k"] == {"1": 0.5, "2": pytest.approx(2 / 3)}


def test_difficulties_in_words(tmp_path: Path) -> None:
    rows = [row(0, 0, difficulty="hard"), row(1, 0, difficulty="", reward=1.0), row(2, 0, difficulty="easy")]
    assert list(summarise(rows)["difficulty"]) == ["easy", "hard"], "what has no label is not broken down"
    write_rows(tmp_path / "rows.parquet", rows)
    assert pq.read_table(tmp_path / "rows.parquet")["difficulty"].to_pylist() == ["hard", "", "easy"]


def test_a_task_whose_difficulties_are_of_two_types_loses_no_rows(tmp_path: Path) -> None:
    rows = [row(0, 0, difficulty="hard"), row(1, 0, difficulty=3), row(2, 0, difficulty=0)]
    write_rows(tmp_path / "rows.parquet", rows)
    assert pq.read_table(tmp_path / "rows.parquet")["difficulty"].to_pylist() == ["hard", "3", ""]


def test_figures_of_long_labels_stand_below_each_other() -> None:
    rows = [row(0, 0, difficulty="short"), row(1, 0, difficulty="as many words as a task likes", reward=1.0)]
    lines = [line for line in format_result(summarise(rows)).splitlines() if "difficulty" in line]
    assert [line.endswith(", 1 problem") for line in lines] == [True, True]
    assert len({line.index("%  95 %") for line in lines}) == 1


def test_a_success_is_what_the_run_that_trained_the_model_says(tmp_path: Path) -> None:
    rows = [row(0, 0, reward=0.5), row(1, 0, reward=0.0)]
    assert summarise(rows)["acc"] == 0.0
    assert summarise(rows, success_threshold=0.5)["acc"] == 0.5
    assert find_run(str(tmp_path)).success_threshold == find_run("org/model").success_threshold == 1.0
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    (tmp_path / "config.yaml").write_text("window_success_threshold: 0.5\n")
    assert find_run(str(tmp_path)).success_threshold == find_run(str(checkpoint)).success_threshold == 0.5
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "best").symlink_to(checkpoint)
    assert find_run(str(tmp_path / "elsewhere" / "best")).file == tmp_path / "config.yaml"
    (tmp_path / "config.yaml").write_text("window_success_threshold: half\n")
    with pytest.raises(ValueError, match=r"window_success_threshold = 'half' is no number; correct it there"):
        _ = find_run(str(tmp_path)).success_threshold


def test_a_configuration_of_another_program_beside_a_model_is_not_of_its_run(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "config.yaml").write_text("task: classification\ntemperature: 0.5\n")
    assert find_run(str(tmp_path / "model")).file is None
    (tmp_path / "config.yaml").write_text("task: countdown\nwindow_strategy: fixed\n")
    assert find_run(str(tmp_path / "model")).file == tmp_path / "config.yaml"


def test_a_figure_without_a_sample_is_absent() -> None:
    figures = summarise([row(0, 0)])
    assert "correct_mean_length" not in figures and "pass_at_k" not in figures


@pytest.mark.parametrize("no_reward", [float("nan"), float("inf"), float("-inf"), None])
def test_a_reward_that_is_no_finite_number_is_not_judged(no_reward: float | None, tmp_path: Path) -> None:
    """As in training: it is in no figure that asks for the reward, and no file holds a NaN."""
    assert (as_reward(no_reward), as_reward(1)) == (None, 1.0)
    rows = [row(0, 0, reward=1.0), row(0, 1), row(1, 0, reward=1.0), row(1, 1, reward=as_reward(no_reward))]
    rows += [row(2, sample, reward=as_reward(no_reward), difficulty=4, length=40) for sample in range(2)]
    work = WorkFile(tmp_path / "work.jsonl", {})
    work.append(rows)
    for each in (work.rows, WorkFile(tmp_path / "work.jsonl", {}).rows):
        figures = summarise(each)
        assert (figures["acc"], figures["problems"], figures["reward"]) == (
            pytest.approx(2 / 3),
            2,
            pytest.approx(2 / 3),
        )
        assert (figures["unjudged"], figures["generations"], figures["mean_length"]) == (3, 6, 20)
        assert list(figures["difficulty"]) == ["3"] and figures["pass_at_k"] == {"1": 0.5, "2": 1.0}
        json.dumps(figures, allow_nan=False)
    for text in (tmp_path / "work.jsonl").read_text().splitlines():
        json.loads(text, parse_constant=pytest.fail)
    write_rows(tmp_path / "rows.parquet", work.rows)
    assert pq.read_table(tmp_path / "rows.parquet")["reward"].to_pylist() == [1.0, 0.0, 1.0, None, None, None]
    assert f"{'not judged':<16}3 of 6 answers" in format_result(figures)


def test_an_evaluation_without_a_judged_answer_has_no_accuracy() -> None:
    figures = summarise([row(0, sample, reward=None) for sample in range(2)])
    assert not {"acc", "acc_low", "problems", "reward", "pass_at_k", "correct_mean_length"} & figures.keys()
    assert format_result(figures).splitlines()[0] == f"{'not judged':<16}2 of 2 answers"
    assert "unjudged" not in summarise([row(0, 0)]), "only where there are any"


@pytest.mark.parametrize(("samples", "ks"), [(2, ["1", "2"]), (4, ["1", "2", "4"]), (6, ["1", "2", "4", "6"])])
def test_pass_at_powers_of_two_and_at_all_samples(samples: int, ks: list[str]) -> None:
    assert list(summarise([row(0, sample) for sample in range(samples)])["pass_at_k"]) == ks


@settings(max_examples=200, deadline=None)
@given(OUTCOMES)
def test_the_interval_holds_the_accuracy_and_is_never_empty(outcomes: list[list[bool]]) -> None:
    low, high = accuracy_interval(outcomes)
    accuracy = sum(map(sum, outcomes)) / sum(map(len, outcomes))
    assert 0 <= low <= accuracy <= high <= 1 and low < high
    if len(outcomes[0]) == 1:
        assert (low, high) == wilson_interval(sum(map(sum, outcomes)), len(outcomes))


def test_the_interval_covers_where_samples_of_a_problem_agree() -> None:
    """Every problem is either always or never solved: eight samples say no more than one."""
    generator = random.Random(0)
    covered = naively_covered = 0
    for _ in range(400):
        outcomes = [[generator.random() < 0.4] * 8 for _ in range(60)]
        low, high = accuracy_interval(outcomes)
        covered += low <= 0.4 <= high
        low, high = wilson_interval(sum(map(sum, outcomes)), 60 * 8)
        naively_covered += low <= 0.4 <= high
    assert covered >= 0.92 * 400
    assert naively_covered < 0.7 * 400


def test_work_file_keeps_whole_lines(tmp_path: Path) -> None:
    path, identity = tmp_path / "work.jsonl", {"seed": 0, "limit": None}
    first, second = [row(0, 0, completion="line\nbreak \u2028 \U0001f600")], [row(1, 0), row(2, 0)]
    work = WorkFile(path, identity)
    work.append(first)
    work.append(second)
    content = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
    for cut in (len(content), len(content) - 1, ends[1] + 5, ends[1], ends[1] - 1, ends[0], ends[0] - 1, 0):
        path.write_bytes(content[:cut])
        kept = [rows for rows, end in zip((first, second), ends[1:], strict=True) if end <= cut]
        reopened = WorkFile(path, identity)
        assert reopened.rows == [each for rows in kept for each in rows]
        reopened.append(second)
        assert WorkFile(path, identity).rows == reopened.rows
    work.remove()
    assert list(tmp_path.iterdir()) == []


def test_work_file_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    path = tmp_path / "work.jsonl"
    WorkFile(path, {"seed": 7, "n": 1})
    WorkFile(path, {"seed": 0, "n": 1}).append([])  # the first failed before its first answer, and gives way
    with pytest.raises(ValueError, match=r"work.jsonl is the unfinished part of another evaluation \(seed: 0 there"):
        WorkFile(path, {"seed": 1, "n": 1})
    path.write_text(json.dumps({"seed": 0}) + "\n{not json\n")
    with pytest.raises(ValueError, match=r"is damaged .* delete it to start over"):
        WorkFile(path, {"seed": 0})
    path.write_text("[]\n")
    with pytest.raises(ValueError, match=r"is damaged .* delete it to start over"):
        WorkFile(path, {"seed": 0})


def test_pass_at_k_is_over_the_same_problems_for_every_k() -> None:
    """Where answers were not judged, more answers would else have a smaller share."""
    rows = [row(0, sample, reward=0.0) for sample in range(4)]
    rows += [row(1, sample, reward=1.0 if sample < 2 else None) for sample in range(4)]
    rows += [row(2, sample, reward=float(sample == 0)) for sample in range(4)]
    assert summarise(rows)["pass_at_k"] == {"1": 0.125, "2": 0.25, "4": 0.5}


def test_what_a_runs_configuration_says_steers_no_terminal() -> None:
    notes = ["the run has its weights in \x1b]0;title\x07\u202e\nnote of nobody"]
    *_, note, _ = format_result(summarise([row(0, 0)]) | {"notes": notes}).split("\n")
    assert note == rf"{'note':<16}the run has its weights in \x1b]0;title\x07\u202e\nnote of nobody"
