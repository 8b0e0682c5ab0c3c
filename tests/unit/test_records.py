"""The run directory: what is written is what is read, through kills, resumes and figures that are not finite."""

import gzip
import json
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from tinyzero_trl.runs import environment
from tinyzero_trl.runs.files import write_atomically
from tinyzero_trl.runs.gathered import gather
from tinyzero_trl.runs.json_lines import read_lines
from tinyzero_trl.runs.records import (
    MOST_CHARACTERS,
    MOST_SAMPLES,
    RunRecords,
    answers_of,
    is_finished,
    name_of_folder,
    read_run,
)
from tinyzero_trl.runs.strict_yaml import read_mapping


@pytest.fixture
def records(tmp_path):
    records = RunRecords(tmp_path / "run")
    records.write_config({"recipe": "countdown_tiny", "seed": 3})
    return records


def fill(records, steps):
    for step in steps:
        records.append_metrics(step, 10.0 * step, {"tokens/response_total": 100 + step})
        records.append_completions(step, [{"prompt": f"p{step}", "completion": "c", "reward": 1.0}])
        if step % 2 == 0:
            records.append_eval(step, 10.0 * step, 1000 * step, {"eval/acc": 0.5})


def test_a_run_reads_back_as_it_was_written(records):
    fill(records, range(3))
    records.write_environment(["cpu"], processes=2)
    records.write_summary({"recipe": "countdown_tiny", "seed": 3, "accuracy_after": 0.5})
    run = read_run(records.path)
    assert run.config == {"recipe": "countdown_tiny", "seed": 3}
    assert run.metrics[2] == {"step": 2, "time_s": 20.0, "tokens/response_total": 102}
    assert run.evals[1] == {"step": 2, "time_s": 20.0, "tokens": 2000, "eval/acc": 0.5}
    assert run.completions[0] == {"step": 0, "prompt": "p0", "completion": "c", "reward": 1.0}
    assert run.summary == {"recipe": "countdown_tiny", "seed": 3, "accuracy_after": 0.5}
    assert run.environment["devices"] == ["cpu"]
    assert run.environment["processes"] == 2
    assert "numpy" in run.environment["versions"]


def test_a_run_whose_lines_were_compressed_reads_the_same(records):
    fill(records, range(3))
    whole = read_run(records.path)
    for name in ("metrics.jsonl", "eval.jsonl"):
        file = records.path / name
        (records.path / f"{name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert read_run(records.path) == whole
    packed = records.path / "metrics.jsonl.gz"
    for damaged in (packed.read_bytes()[:-9], b"plain text"):
        packed.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"metrics.jsonl.gz is no complete gzip file \(.*\); copy it anew"):
            read_run(records.path)


def test_figures_that_are_not_finite_are_absent_and_the_json_is_strict(records):
    figures = {"a": float("nan"), "b": float("inf"), "c": np.float32(0.5), "d": np.int64(3), "e": np.float64("nan")}
    records.append_metrics(1, 1.0, figures)
    line = (records.path / "metrics.jsonl").read_text(encoding="utf-8")
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 1, "time_s": 1.0, "c": 0.5, "d": 3}
    records.write_summary({"accuracy": {"low": float("nan"), "mean": 0.5}, "values": [1.0, float("inf")]})
    assert read_run(records.path).summary == {"accuracy": {"mean": 0.5}, "values": [1.0, None]}


@pytest.mark.parametrize("cut", [2, 9, 30])
def test_a_line_cut_by_a_kill_is_skipped_on_reading_and_gone_after_reopening(records, cut):
    fill(records, range(4))
    file = records.path / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    assert [line["step"] for line in read_run(records.path).metrics] == [0, 1, 2]
    reopened = RunRecords(records.path)
    reopened.append_metrics(3, 30.0, {})
    assert [line["step"] for line in read_run(records.path).metrics] == [0, 1, 2, 3]


def test_a_last_line_that_is_whole_counts_although_its_end_is_missing(records):
    """As an editor or a copy leaves it: a report would call the figures before it the last."""
    fill(records, range(4))
    file = records.path / "metrics.jsonl"
    file.write_bytes(file.read_bytes().removesuffix(b"\n"))
    assert [line["step"] for line in read_run(records.path).metrics] == [0, 1, 2, 3]
    RunRecords(records.path).append_metrics(4, 40.0, {})
    assert [line["step"] for line in read_run(records.path).metrics] == [0, 1, 2, 3, 4]


def test_a_figure_called_step_replaces_no_step(records):
    records.append_metrics(1, 1.0, {"step": 0.5, "time_s": 9.0, "a": 2.0})
    records.append_eval(1, 1.0, 30, {"tokens": 7.5, "eval/acc": 0.5})
    records.write_config({"seed": 0})
    run = read_run(records.path)
    assert run.metrics == [{"step": 1, "time_s": 1.0, "a": 2.0}]
    assert run.evals[0]["tokens"] == 30


@pytest.mark.parametrize(
    ("folder", "name"),
    [("runs/python", "python"), ("runs/mine/seed_3", "mine"), ("mine-seed2", "mine"), ("seeds", "seeds")],
)
def test_repetitions_from_python_have_one_name(folder, name):
    assert name_of_folder(folder) == name


def test_a_resumed_run_neither_loses_nor_doubles_a_line(records, tmp_path):
    fill(records, range(8))  # killed after step 7, its last checkpoint is that of step 5
    records.write_summary({"seed": 3})
    resumed = RunRecords(records.path)
    resumed.truncate_after(5)
    assert not is_finished(records.path)
    fill(resumed, range(6, 10))
    uninterrupted = RunRecords(tmp_path / "other")
    uninterrupted.write_config({"seed": 3})
    fill(uninterrupted, range(10))
    run, expected = read_run(records.path), read_run(uninterrupted.path)
    assert (run.metrics, run.evals, run.completions) == (expected.metrics, expected.evals, expected.completions)


def test_a_resumed_run_writes_no_file_anew_that_loses_no_line(records):
    """A run of 10,000 steps has a thousand files of samples."""
    fill(records, range(4))
    earlier = {file: file.stat().st_ino for file in records.path.rglob("*.jsonl")}
    records.truncate_after(3)
    assert earlier == {file: file.stat().st_ino for file in records.path.rglob("*.jsonl")} and len(earlier) > 2


def test_lines_share_the_names_of_their_figures(records):
    """Else ten runs of 10,000 steps take gigabytes to report."""
    fill(records, range(2))
    first, second = read_run(records.path).metrics
    assert all(one is other for one, other in zip(first, second, strict=True))


def test_truncating_after_minus_one_starts_over(records):
    fill(records, range(3))
    records.truncate_after(-1)
    run = read_run(records.path)
    assert (run.metrics, run.evals, run.completions) == ([], [], [])
    assert run.config["seed"] == 3


def test_samples_are_bounded_in_number_and_length(records):
    text = "x" * (MOST_CHARACTERS + 5)
    records.append_completions(0, ({"prompt": "p", "completion": text} for _ in range(MOST_SAMPLES + 3)))
    rows = read_run(records.path).completions
    assert [row["completion"] for row in rows] == [text[:-5] + "\n[5 characters left out]"] * MOST_SAMPLES


def test_text_that_no_encoding_knows_does_not_stop_a_run(records):
    texts = ["lone \ud800 surrogate", "line\u2028separator\r\n", "数字", "\x00"]
    records.append_completions(0, [{"completion": text} for text in texts])
    assert [row["completion"] for row in read_run(records.path).completions] == texts


def test_configuration_values_without_a_yaml_type_become_text(records, tmp_path):
    records.write_config({"path": tmp_path, "operands": (3, 4), "rate": np.float64(0.5), "none": None, "on": True})
    expected = {"path": str(tmp_path), "operands": [3, 4], "rate": 0.5, "none": None, "on": True}
    assert read_run(records.path).config == expected


def test_series_skips_lines_that_lack_a_figure(records):
    for step, line in enumerate([{"a": 1.0}, {"b": 5.0}, {"a": 3.0, "b": 6.0}]):
        records.append_metrics(step, 0.0, line)
    run = read_run(records.path)
    assert [axis.tolist() for axis in run.series("a")] == [[0, 2], [1, 3]]
    assert [axis.tolist() for axis in run.series("a", "b")] == [[6], [3]]
    assert [axis.tolist() for axis in run.series("missing")] == [[], []]


def test_what_is_no_run_is_refused_with_its_path(records, tmp_path):
    with pytest.raises(ValueError, match=r"is no run directory: it has no config\.yaml"):
        read_run(tmp_path / "nothing")
    (records.path / "metrics.jsonl").write_text('{"step": 1}\n{"time_s": 2}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not a record"):
        read_run(records.path)
    (records.path / "metrics.jsonl").unlink()
    (records.path / "config.yaml").write_text("- a list", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.yaml: must hold a mapping of names to values"):
        read_run(records.path)


def test_what_an_accuracy_rests_on_is_counted_in_words():
    assert answers_of({"eval/n": 0.0, "eval/problems": 0.0}) == "0 problems"
    assert answers_of({"eval/n": 1.0, "eval/problems": 1.0}) == "1 problem"
    assert answers_of({"eval/n": 4.0, "eval/problems": 1.0}) == "1 problem, 4 answers"
    assert answers_of({"eval/n": 2048.0, "eval/problems": 2048.0}) == answers_of({"eval/n": 2048.0}) == "2,048 problems"


def test_only_a_complete_summary_finishes_a_run(records):
    assert not is_finished(records.path)
    (records.path / "summary.json").write_text('{"seed": ', encoding="utf-8")
    assert not is_finished(records.path)
    records.write_summary({"seed": 3})
    assert is_finished(records.path)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "summary.json"
    write_atomically(file, "old")
    with pytest.raises(TypeError):
        write_atomically(file, None)
    assert file.read_text(encoding="utf-8") == "old"


def test_five_thousand_records_are_read_in_a_moment(records):
    names = [f"group/figure_{number}" for number in range(50)]
    for step in range(5000):
        records.append_metrics(step, 1.0, dict.fromkeys(names, 0.123456789))
    started = time.process_time()
    assert len(read_run(records.path).metrics) == 5000
    assert time.process_time() - started < 3


def test_the_commit_is_that_of_this_files_checkout_alone(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    package = tmp_path / "package" / "environment.py"
    package.parent.mkdir()
    package.touch()
    monkeypatch.setattr(environment, "__file__", str(package))
    assert environment.git_commit() is None  # no checkout
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert environment.git_commit() is None  # a checkout, but not of this file
    subprocess.run([*git, "add", "package"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "second"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert environment.git_commit() == commit
    package.write_text("changed", encoding="utf-8")
    assert environment.git_commit() == f"{commit}-dirty"


def test_records_metrics_ablation_and_report_load_no_training_library():
    program = (
        "import sys; import tinyzero_trl.metrics, tinyzero_trl.runs.records, tinyzero_trl.runs.report; "
        "import tinyzero_trl.commands.ablation.execution; print({'torch', 'trl', 'transformers'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "set()"


def test_a_kept_run_has_its_configuration_in_the_file_of_its_group(tmp_path):
    lines = '{"step": 0, "time_s": 0.0, "tokens": 0, "eval/acc": 0.5}\n'
    for name in ("seed_0", "seed_1", "seed_2"):
        (tmp_path / "full" / name).mkdir(parents=True)
        (tmp_path / "full" / name / "eval.jsonl").write_text(lines)
    runs = {
        "seed_0": {"seed": 0, "beta": 0.0, "flag": 1},
        "seed_1": {"seed": 1, "beta": 0.0, "flag": True, "new": None},
    }
    group = {"config": gather(runs), "environment": gather({name: {"git_commit": "1"} for name in runs})}
    assert group["config"]["common"] == {"beta": 0.0}, "1 and true are not the same"
    (tmp_path / "full.yaml").write_text(yaml.safe_dump(group))
    for name, config in runs.items():
        run = read_run(tmp_path / "full" / name)
        assert run.config == config and run.environment == {"git_commit": "1"}
    with pytest.raises(ValueError, match="no run directory"):
        read_run(tmp_path / "full" / "seed_2")
    (tmp_path / "full.yaml").write_text("config: {common: 1, runs: {seed_0: {}}}\n")
    with pytest.raises(ValueError, match=r"full\.yaml: config holds no mappings"):
        read_run(tmp_path / "full" / "seed_0")
    (tmp_path / "full" / "seed_0" / "config.yaml").write_text("seed: 5\n")
    (tmp_path / "full.yaml").unlink()
    assert read_run(tmp_path / "full" / "seed_0").config == {"seed": 5}


def test_a_name_that_stands_twice_in_a_yaml_file_is_refused_and_merge_keys_are_not(tmp_path):
    file = tmp_path / "a.yaml"
    for text, line in (("a: 1\na: 2\n", 2), ("a:\n  b: 1\n  c: 2\n  b: 1\n", 4), ("a: [{b: 1, b: 2}]\n", 1)):
        file.write_text(text)
        with pytest.raises(ValueError, match=rf"a.yaml, line {line}: '[ab]' stands there twice; remove one of them"):
            read_mapping(file)
    file.write_text("a: &a {x: 0}\nb: &b {<<: *a, x: 1}\nc: {<<: *b, x: 2}\nd: {<<: *b}\n")
    assert [each["x"] for each in read_mapping(file).values()] == [0, 1, 2, 1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "a0: &a0 [lol]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 11)),
            r"\(\*name\) multiply",
        ),
        ("a: &a {b: [*a]}\n", r"an alias \(\*name\) stands in the value that it names"),
        ("a: 2001-99-99\n", "is not YAML: month must be in 1..12"),
        (f"a: {'9' * 5000}\n", "is not YAML: Exceeds the limit"),
        (f"a: 0x{'f' * 5000}\n", "is not YAML: Exceeds the limit"),
        ("a: [" * 2000, "is not YAML"),
    ],
    ids=["many", "within", "day", "decimal", "hexadecimal", "deep"],
)
def test_yaml_that_says_too_much_or_nothing_is_one_line(text, says, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"^[^\n]*config.yaml[^\n]*{says}[^\n]*$"):
        read_run(tmp_path)


def test_a_run_with_compressed_lines_goes_on(tmp_path):
    records = RunRecords(tmp_path)
    for step in (1, 2, 3):
        records.append_metrics(step, 0.0, {"loss": 1.0})
    file = tmp_path / "metrics.jsonl"
    (tmp_path / "metrics.jsonl.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    again = RunRecords(tmp_path)
    again.truncate_after(2)
    again.append_metrics(3, 0.0, {"loss": 2.0})
    assert [(line["step"], line["loss"]) for line in read_lines(file)] == [(1, 1.0), (2, 1.0), (3, 2.0)]
    assert not (tmp_path / "metrics.jsonl.gz").exists()


def test_an_unpacking_that_was_interrupted_loses_no_line(tmp_path):
    """The disk is full in the middle of it: the next start finds all lines."""
    lines = "".join(json.dumps({"step": step, "time_s": float(step)}) + "\n" for step in range(1000))
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "metrics.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(lines) // 3, limit[1]))
        with pytest.raises(OSError, match="File too large"):
            RunRecords(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    RunRecords(tmp_path)
    assert len(read_run(tmp_path).metrics) == 1000
    assert {file.name for file in tmp_path.iterdir()} == {"config.yaml", "metrics.jsonl"}
