"""A page compares what can be compared: finished runs, asked the same held-out problems in the same way."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from tests.support.synthetic_runs import train
from tinyzero_trl.runs.records import EXAMPLES, HELD_OUT_PROMPTS, TASK_OPTIONS, RunRecords, read_run
from tinyzero_trl.runs.report import write_report
from tinyzero_trl.runs.report.comparable import EVALUATION_FIELDS, evaluation_differences
from tinyzero_trl.runs.report.compare import compare
from tinyzero_trl.runs.report.run_groups import choose_baseline, load_run_groups
from tinyzero_trl.runs.report.samples import sample_cards
from tinyzero_trl.tasks.reasoning_gym.options import CommonOptions
from tinyzero_trl.tasks.registry import option_defaults

ASKED = {
    "task": "countdown",
    "test_size": 1024,
    "problem_seed": 0,
    "prompt_template": "base",
    "max_completion_length": 512,
}


def report(runs, out):
    """The page as text, and the summary."""
    page = write_report(runs, out).read_text(encoding="utf-8")
    return page, json.loads((out / "summary.json").read_text(encoding="utf-8"))


def test_a_run_that_stopped_halfway_changes_no_result(tmp_path):
    runs = [train(tmp_path / f"full{seed}", seed=seed) for seed in range(3)]
    runs += [train(tmp_path / f"bold{seed}", seed=seed, recipe="bold", speed=2.0) for seed in range(2)]
    _, expected = report(runs, tmp_path / "before")
    half = train(tmp_path / "bold2", seed=2, recipe="bold", steps=3, finished=False)
    early = RunRecords(tmp_path / "early")
    early.write_config({"recipe": "bold", "window_strategy": "fixed", "window_max": 512, "seed": 4})
    page, found = report([*runs, half, early.path], tmp_path / "after")
    assert found.pop("unfinished_runs") == [str(half), str(early.path)]
    assert found == expected
    assert "2 runs are not finished and no part of any figure" in page
    assert page.count("<td>unfinished</td>") == 2


def test_while_no_run_is_finished_the_page_shows_how_far_they_are(tmp_path):
    runs = [train(tmp_path / recipe, recipe=recipe, finished=False) for recipe in ("full", "bold")]
    page, summary = report(runs, tmp_path / "out")
    assert "No run here is finished" in page and summary["finished"] is False
    assert (tmp_path / "out" / "plots" / "accuracy.png").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("test_size", 512),
        ("problem_seed", 1),
        ("prompt_template", "chat"),
        ("max_completion_length", 256),
        ("temperature", 0.6),
        ("largest_step", 9),
        ("max_summand", 9),
        ("answer_match", "numeric"),
        ("instruction", None),
    ],
)
def test_other_problems_or_another_way_of_asking_are_said_and_not_compared(tmp_path, field, value):
    base = ASKED | {
        "temperature": 1.0,
        "largest_step": 2,
        "max_summand": 20,
        "answer_match": "exact",
        "instruction": "!",
    }
    runs = [train(tmp_path / f"full{seed}", seed=seed, **base) for seed in range(2)]
    runs += [train(tmp_path / f"bold{seed}", seed=seed, **base | {"recipe": "bold", field: value}) for seed in range(2)]
    groups = load_run_groups(runs).groups
    _, bold = compare(groups, choose_baseline(groups, "full"))
    assert (bold.acc_difference, bold.tokens_ratio, bold.tokens_to_target_ratio, bold.paired_seeds) == (
        None,
        None,
        None,
        0,
    )
    page, summary = report(runs, tmp_path / "out")
    assert summary["policies"]["bold"]["not_compared"] == [f"{field} {value!r}, not {base[field]!r}"]
    assert re.search(rf"not comparable<small>{field} ", page)
    assert "x the tokens" not in page, "no tile compares them"


def test_an_option_that_older_records_left_empty_is_not_known_to_differ(tmp_path):
    old = train(tmp_path / "full", **ASKED, min_number=None, operands=[3])
    new = train(tmp_path / "bold", **ASKED, recipe="bold", min_number=1, operands=[3])
    page, _ = report([old, new], tmp_path / "out")
    assert "not comparable" not in page
    other = train(tmp_path / "other", **ASKED, recipe="other", min_number=2, operands=[4])
    page, _ = report([new, other], tmp_path / "out")
    assert "operands [4], not [3]; min_number 2, not 1" in page


def test_every_option_of_a_built_in_task_is_looked_at():
    assert set(option_defaults()) <= set(EVALUATION_FIELDS)
    assert {each.name for each in fields(CommonOptions)} - {"difficulty_label"} <= set(EVALUATION_FIELDS)


def test_an_option_of_a_users_own_task_that_changes_the_scores_alone_is_said(tmp_path):
    runs = [train(tmp_path / recipe, recipe=recipe, **ASKED, strict=recipe == "bold") for recipe in ("full", "bold")]
    for run in runs:
        RunRecords(run).write_environment(["cpu"], **{HELD_OUT_PROMPTS: "a", TASK_OPTIONS: ["strict"]})
    groups = load_run_groups(runs).groups
    assert [outcome.not_compared for outcome in compare(groups, groups[0])] == [(), ("strict True, not False",)]


@pytest.mark.parametrize("noted", [3, "steps", [["steps"]], {"steps": 1}, None])
def test_options_that_are_no_names_are_not_looked_at(noted, tmp_path):
    run = train(tmp_path / "run")
    (run / "environment.json").write_text(json.dumps({"task_options": noted}))
    [group] = load_run_groups([run]).groups
    assert evaluation_differences(group, group) == []


def test_prompts_that_no_field_tells_apart_are_not_compared(tmp_path):
    runs = [train(tmp_path / recipe, recipe=recipe, **ASKED) for recipe in ("full", "same", "other", "older")]
    for run, digest in zip(runs, ("a", "a", "b", None), strict=True):
        RunRecords(run).write_environment(["cpu"], **{HELD_OUT_PROMPTS: digest} if digest else {})
    groups = load_run_groups(runs).groups
    compared = [outcome.not_compared for outcome in compare(groups, groups[0])]
    assert compared == [(), (), ("other held-out prompts than those of the baseline",), ()]


@pytest.mark.parametrize(
    ("ours", "baseline", "fields", "is_said"),
    [
        ({"held_out": "corrected", "train": "t"}, {"held_out": "a", "train": "t"}, {}, True),
        ({"held_out": "a", "train": "other"}, {"held_out": "a", "train": "t"}, {}, False),
        ({}, {"held_out": "a", "train": "t"}, {}, False),
        ({"held_out": "b"}, {"held_out": "a"}, {"difficulty_label": "n"}, False),
    ],
)
def test_the_same_prompts_with_other_right_answers_are_not_compared(tmp_path, ours, baseline, fields, is_said):
    runs = [train(tmp_path / "full", **ASKED), train(tmp_path / "bold", recipe="bold", **ASKED | fields)]
    for run, digests in zip(runs, (baseline, ours), strict=True):
        RunRecords(run).write_environment(["cpu"], **{HELD_OUT_PROMPTS: "a", EXAMPLES: digests})
    groups = load_run_groups(runs).groups
    [difference] = compare(groups, groups[0])[1].not_compared or [""]
    assert difference.startswith("other right answers") == is_said and bool(difference) == is_said


@pytest.mark.parametrize(("ours", "baseline"), [("aab", "aaa"), ("aaa", "aab"), ("ba-", "a--"), ("abc", "abc")])
def test_seeds_of_a_group_that_were_asked_other_prompts_are_not_compared(tmp_path, ours, baseline):
    """Whichever seed it is: a mean over them is no accuracy on one set of problems."""
    runs = []
    for recipe, digests in (("full", baseline), ("bold", ours)):
        for seed, digest in enumerate(digests):
            runs.append(train(tmp_path / f"{recipe}{seed}", recipe=recipe, seed=seed, **ASKED))
            RunRecords(runs[-1]).write_environment(["cpu"], **{HELD_OUT_PROMPTS: digest} if digest != "-" else {})
    page, summary = report(runs, tmp_path / "out")
    whose = "the baseline's" if ours == "aaa" else "its"
    reason = f"{whose} seeds were asked other held-out problems than one another"
    assert summary["policies"]["bold"]["not_compared"] == [reason]
    assert summary["policies"]["bold"]["acc_difference"] is None and "x the tokens" not in page


def test_seeds_are_looked_at_whichever_of_them_recorded_its_prompts(tmp_path):
    """The first runs of both groups say nothing of them."""
    runs = []
    for recipe, digests in (("full", (None, "a")), ("bold", (None, "b")), ("same", (None, "a"))):
        for seed, digest in enumerate(digests):
            runs.append(train(tmp_path / f"{recipe}{seed}", recipe=recipe, seed=seed, **ASKED))
            RunRecords(runs[-1]).write_environment(["cpu"], **{HELD_OUT_PROMPTS: digest} if digest else {})
    groups = load_run_groups(runs).groups
    compared = [outcome.not_compared for outcome in compare(groups, groups[0])]
    assert compared == [(), ("other held-out prompts than those of the baseline",), ()]


def test_a_lone_group_says_that_its_seeds_were_asked_other_problems(tmp_path):
    runs = [train(tmp_path / str(seed), seed=seed) for seed in range(2)]
    for seed, run in enumerate(runs):
        RunRecords(run).write_environment(["cpu"], **{HELD_OUT_PROMPTS: str(seed)})
    page, _ = report(runs, tmp_path / "out")
    assert "But its seeds were asked other held-out problems than one another." in page


def test_an_answer_that_was_not_judged_makes_no_other_problems(tmp_path):
    runs = [train(tmp_path / recipe, recipe=recipe) for recipe in ("full", "bold")]
    for run, problems in zip(runs, (64, 63), strict=True):
        RunRecords(run).write_environment(["cpu"], **{HELD_OUT_PROMPTS: "a"})
        lines = [line | {"eval/n": 128.0, "eval/problems": problems} for line in read_run(run).evals]
        (run / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    groups = load_run_groups(runs).groups
    assert compare(groups, groups[0])[1].not_compared == ()


@pytest.mark.parametrize("value", [None, "half", [1], float("inf")])
def test_a_threshold_that_is_no_number_is_one_line(tmp_path, value):
    run = train(tmp_path, window_success_threshold=value)
    with pytest.raises(ValueError, match=r"config.yaml: window_success_threshold = .* is no number; correct it there"):
        write_report([run], tmp_path / "out")


def test_seeds_that_were_asked_other_problems_are_no_repetitions(tmp_path):
    runs = [train(tmp_path / str(seed), seed=seed, **ASKED | {"problem_seed": seed}) for seed in range(2)]
    assert [list(group.runs) for group in load_run_groups(runs).groups] == [[0], [1]]


def test_the_number_of_problems_counts_where_no_field_tells(tmp_path):
    runs = [train(tmp_path / recipe, recipe=recipe) for recipe in ("full", "bold")]
    for run, problems in zip(runs, (64, 32), strict=True):
        lines = [line | {"eval/n": 128.0, "eval/problems": problems} for line in read_run(run).evals]
        (run / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    groups = load_run_groups(runs).groups
    assert compare(groups, groups[0])[1].not_compared == ("held-out problems 32, not 64",)


def test_the_page_calls_a_success_what_the_run_does(tmp_path):
    """Rewards 0 and 0.5 under a threshold of 0.5, and completions that were not judged."""
    records = RunRecords(tmp_path)
    records.write_config({"seed": 0, "window_success_threshold": 0.5})
    for step, rewards in ((0, (0.0, 0.5, None)), (9, (0.5, 0.5, 0.5))):
        rows = [
            {"source": "eval", "prompt": f"p{row}", "completion": "c", "reward": reward}
            for row, reward in enumerate(rewards)
        ]
        records.append_completions(step, rows)
        records.append_eval(step, 1.0, 10, {"eval/acc": 0.5})
    [group] = load_run_groups([tmp_path]).groups
    cards = sample_cards([group])
    assert [card.change for card in cards] == ["learned", "kept", ""]
    assert [card.sides[0].mark for card in cards] == ["wrong", "correct", "unjudged"]


def test_a_run_that_can_only_be_read_gets_a_report(tmp_path, monkeypatch):
    run = train(tmp_path / "run")
    monkeypatch.setattr("tinyzero_trl.runs.report.os.access", lambda path, mode: False)
    page, _ = report([run], tmp_path / "out")
    assert "<svg" in page and not (run / "plots").exists()


def test_a_last_evaluation_without_a_judged_answer_still_costs_its_tokens(tmp_path):
    """Or the run would seem to have spent what it had spent when an answer was judged last."""
    full, signal = train(tmp_path / "full"), train(tmp_path / "signal", recipe="signal", speed=2.0)
    RunRecords(signal).append_eval(10, 90.0, 20_000, {"eval/truncated_frac": 1.0})
    page, summary = report([full, signal], tmp_path / "out")
    assert summary["policies"]["signal"]["tokens_ratio"]["mean"] == pytest.approx(20_000 / 8_000)
    assert f"no answer of the last evaluation of {signal} was judged; its accuracy is that of step 8" in page


def test_records_that_have_lost_their_last_evaluation_are_refused(tmp_path):
    run = train(tmp_path / "full")
    RunRecords(run).write_summary({"seed": 0, "accuracy_after": {"mean": 0.8}})
    report([run], tmp_path / "out")
    lines = (run / "eval.jsonl").read_text().splitlines(keepends=True)
    (run / "eval.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"accuracy 0\.6000, and summary\.json 0\.8000; lines are missing"):
        report([run], tmp_path / "out")


@pytest.mark.parametrize(("name", "value"), [("devices", ["NVIDIA H100"]), ("processes", 8)])
def test_times_on_other_devices_are_not_compared(tmp_path, name, value):
    full, signal = train(tmp_path / "full"), train(tmp_path / "signal", recipe="signal", speed=2.0)
    for run, entry in ((full, {"devices": ["cpu"], "processes": 1}), (signal, {"devices": ["cpu"], "processes": 1})):
        RunRecords(run).write_environment(**entry)
    _, alike = report([full, signal], tmp_path / "out")
    RunRecords(signal).write_environment(**{"devices": ["cpu"], "processes": 1} | {name: value})
    page, apart = report([full, signal], tmp_path / "out")
    assert alike["policies"]["signal"]["time_ratio"] and not apart["policies"]["signal"]["time_ratio"]
    assert alike["policies"]["signal"]["tokens_ratio"] == apart["policies"]["signal"]["tokens_ratio"]
    assert "other devices" in page


@pytest.mark.parametrize(
    ("entries", "note"),
    [
        ([{EXAMPLES: {"train": "a"}}, {EXAMPLES: {"train": "b"}}], "had other training examples than one another"),
        (
            [{"model_files": {"a": "1"}}, {"model_files": {"a": "2"}}],
            "had another model to begin with than one another",
        ),
        ([{EXAMPLES: {"train": "a"}}, {}], None),
    ],
)
def test_seeds_that_do_not_repeat_one_another_are_told(tmp_path, entries, note):
    runs = [train(tmp_path / f"full{seed}", seed=seed) for seed in range(2)]
    for run, entry in zip(runs, entries, strict=True):
        RunRecords(run).write_environment(["cpu"], **entry)
    page, _ = report(runs, tmp_path / "out")
    assert "than one another" not in page if note is None else f"the seeds of full {note}" in page


def test_an_answer_of_the_last_evaluation_that_was_not_judged_makes_no_other_problems(tmp_path):
    full, signal = train(tmp_path / "full"), train(tmp_path / "signal", recipe="signal")
    for run, last in ((full, 512), (signal, 511)):
        RunRecords(run).append_eval(9, 90.0, 9_000, {"eval/acc": 0.8, "eval/n": 512, "eval/problems": 512})
        RunRecords(run).append_eval(10, 95.0, 10_000, {"eval/acc": 0.8, "eval/n": last, "eval/problems": last})
    _, summary = report([full, signal], tmp_path / "out")
    assert "not_compared" not in summary["policies"]["signal"]


@pytest.mark.parametrize("file", ["eval.jsonl", "metrics.jsonl.gz"])
def test_a_report_writes_into_no_run_that_is_kept(tmp_path, file):
    """A published run has no configuration of its own; the report would write over its summary."""
    run = train(tmp_path / "full")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / file).touch()
    with pytest.raises(ValueError, match=r"kept is a run directory, whose summary\.json would be lost"):
        report([run], tmp_path / "kept")


def test_a_run_that_has_not_begun_is_left_out(tmp_path):
    """As a grid leaves it whose run has failed at its start."""
    run, failed = train(tmp_path / "full"), tmp_path / "failed"
    failed.mkdir()
    (failed / "arguments.json").write_text("{}")
    page, _ = report([run, failed], tmp_path / "out")
    assert f"{failed} has not begun, and is left out" in page
    with pytest.raises(ValueError, match="failed has not begun; wait for its first evaluation, or give --live"):
        report([failed], tmp_path / "out")


def test_a_baseline_without_a_finished_run_is_called_so(tmp_path):
    runs = [train(tmp_path / "full", finished=False), train(tmp_path / "signal", recipe="signal")]
    with pytest.raises(ValueError, match="baseline = 'full' has no finished run yet; train it, or choose another"):
        write_report(runs, tmp_path / "out", baseline="full")


def test_a_kept_run_is_found_from_within_and_through_a_link(tmp_path, monkeypatch):
    kept = sorted((Path(__file__).parents[2] / "results" / "ablation_impatient" / "full").glob("seed_*"))[0]
    (tmp_path / "link").symlink_to(kept)
    monkeypatch.chdir(kept)
    assert read_run(".").config == read_run(tmp_path / "link").config == read_run(kept).config
