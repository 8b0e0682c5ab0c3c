"""Evaluation of a tiny random model whose vocabulary holds whole answers: chance gets some of them right."""

import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from tests.support.tiny_models import PROBLEMS, save_tiny_model, write_problems
from tinyzero_trl.commands.main import main
from tinyzero_trl.evaluation import EvaluationSettings, evaluate
from tinyzero_trl.evaluation import run as run_module
from tinyzero_trl.generation.transformers_engine import TransformersEngine
from tinyzero_trl.metrics import pass_at_k, wilson_interval
from tinyzero_trl.tasks import Problem, Score, countdown

FILES = ("eval.json", "generations.parquet")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def settings(model: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationSettings:
    return EvaluationSettings(
        model=str(model),
        data=str(write_problems(tmp_path_factory.mktemp("data") / "problems.jsonl")),
        n=3,
        temperature=1.0,
        max_completion_length=12,
        batch_size=8,
    )


def contents(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in FILES]


def test_figures_follow_from_the_parquet_file(settings: EvaluationSettings, tmp_path: Path) -> None:
    result = evaluate(settings, tmp_path)
    rows = pq.read_table(tmp_path / "generations.parquet").to_pylist()

    assert result == json.loads((tmp_path / "eval.json").read_text())
    assert [(row["problem_index"], row["sample_index"]) for row in rows] == [
        (problem, sample) for problem in range(len(PROBLEMS)) for sample in range(3)
    ]
    for row in rows:
        numbers, target = PROBLEMS[row["problem_index"]]
        assert (tuple(row["numbers"]), row["target"]) == (numbers, target)
        assert row["prompt"] == countdown.render_prompt(Problem(numbers, target), "base")
        assert (row["reward"], row["reason"]) == countdown.score(row["completion"], numbers, target)
        assert row["difficulty"] == len(numbers)
        assert 1 <= row["length"] <= 12 and (row["length"] == 12 or not row["truncated"])

    correct = [row for row in rows if row["reward"] == 1.0]
    assert 0 < len(correct) < len(rows), "the random model must get some answers right, or this test is blind"
    assert {row["truncated"] for row in rows} == {True, False}
    assert result["problems"] == len(PROBLEMS) and result["generations"] == len(rows)
    assert result["acc"] == pytest.approx(len(correct) / len(rows))
    assert result["acc_low"] < result["acc"] < result["acc_high"]
    assert result["reward"] == pytest.approx(sum(row["reward"] for row in rows) / len(rows))
    assert result["truncated_frac"] == pytest.approx(sum(row["truncated"] for row in rows) / len(rows))
    written = sum(row["length"] for row in rows)
    read = sum(row["prompt_length"] for row in rows)
    assert result["tokens"] == {
        "prompt_total": read,
        "response_total": written,
        "overall_total": read + written,
    }
    assert result["mean_length"] == pytest.approx(written / len(rows))
    assert result["correct_mean_length"] == pytest.approx(sum(row["length"] for row in correct) / len(correct))
    for level in (3, 4):
        of_level = [row["reward"] for row in rows if row["difficulty"] == level]
        assert result["difficulty"][str(level)]["acc"] == pytest.approx(sum(of_level) / len(of_level))
        assert result["difficulty"][str(level)]["problems"] == len(of_level) / 3
    for k in (1, 2, 3):
        estimates = [
            pass_at_k(3, sum(row["problem_index"] == index for row in correct), k) for index in range(len(PROBLEMS))
        ]
        assert result["pass_at_k"][str(k)] == pytest.approx(sum(estimates) / len(estimates))
    assert sum(result["reasons"].values()) == len(rows)


def test_one_sample_per_problem_has_wilsons_interval(settings: EvaluationSettings, tmp_path: Path) -> None:
    result = evaluate(replace(settings, n=1), tmp_path)
    assert (result["acc_low"], result["acc_high"]) == wilson_interval(
        round(result["acc"] * len(PROBLEMS)), len(PROBLEMS)
    )
    assert "pass_at_k" not in result


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_interrupted_evaluation_goes_on_to_the_same_files(
    settings: EvaluationSettings, temperature: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, temperature=temperature, n=2 if temperature else 1)
    evaluate(settings, tmp_path / "whole")
    answer = run_module._answer
    calls: list[int] = []

    def answer_until_killed(*args: object) -> list:
        calls.append(len(calls))
        if len(calls) in (2, 4):  # the first call of a run succeeds, the second is killed
            raise KeyboardInterrupt
        return answer(*args)

    monkeypatch.setattr(run_module, "_answer", answer_until_killed)
    out = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        evaluate(settings, out)
    assert not (out / "eval.json").exists()
    work = out / "generations.partial.jsonl"
    with work.open("a") as stream:
        stream.write('[{"prompt": "torn by a ki')
    for _ in range(3):
        try:
            evaluate(settings, out)
            break
        except KeyboardInterrupt:
            continue
    assert contents(out) == contents(tmp_path / "whole")
    assert sorted(os.listdir(out)) == sorted(FILES)
    batches = -(-len(PROBLEMS) * settings.n // settings.batch_size)
    assert len(calls) == batches + min(2, batches - 1), "what was finished is not generated again"


def test_the_seed_decides_the_samples(settings: EvaluationSettings, tmp_path: Path) -> None:
    for name, changed in {
        "one": settings,
        "same": settings,
        "other": replace(settings, seed=1),
        "batches": replace(settings, batch_size=5),
        "first": replace(settings, limit=4),
    }.items():
        evaluate(changed, tmp_path / name)
    completions = {
        name.name: pq.read_table(name / "generations.parquet")["completion"].to_pylist() for name in tmp_path.iterdir()
    }
    assert contents(tmp_path / "one") == contents(tmp_path / "same")
    assert completions["batches"] == completions["one"]
    assert completions["first"] == completions["one"][: 4 * 3]
    assert completions["other"] != completions["one"]
    assert len(set(completions["one"][:3])) > 1, "samples of one problem differ"


def test_an_unfinished_evaluation_with_other_settings_is_kept(settings: EvaluationSettings, tmp_path: Path) -> None:
    work = tmp_path / "generations.partial.jsonl"
    left = json.dumps({"temperature": 0.5}) + "\n[{}]\n"
    work.write_text(left)
    with pytest.raises(ValueError, match=r"temperature: 0.5 there, 1.0 here.*delete the file, or give another --out"):
        evaluate(settings, tmp_path)
    assert work.read_text() == left


def test_an_unfinished_evaluation_under_other_options_of_the_task_is_kept(
    settings: EvaluationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file would hold scores by two rules."""
    model, data = save_tiny_model(tmp_path / "model"), tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"p {row}", "answer": "25"}) + "\n" for row in range(12)))
    config = {"task": "prompt_answer", "answer_match": "exact", "instruction": "", "prompt_template": "base"}
    (model / "config.yaml").write_text(json.dumps({**config, "window_strategy": "fixed", "dataset": "elsewhere"}))
    asked = replace(settings, model=str(model), data=str(data), n=1, include_trained=True)
    answer, calls = run_module._answer, iter(range(9))

    def answer_until_killed(*args: object) -> list:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return answer(*args)

    monkeypatch.setattr(run_module, "_answer", answer_until_killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(asked, tmp_path / "out")
    text = (model / "config.yaml").read_text()
    (model / "config.yaml").write_text(text.replace("exact", "numeric"))
    with pytest.raises(ValueError, match=r"task_options: .*exact.* there, .*numeric.* here"):
        evaluate(asked, tmp_path / "out")
    (model / "config.yaml").write_text(text)
    assert evaluate(asked, tmp_path / "out")["settings"]["task_options"]["answer_match"] == "exact"


def test_results_with_other_settings_are_moved_aside(
    settings: EvaluationSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = evaluate(settings, tmp_path)
    evaluate(settings, tmp_path)
    assert not (tmp_path / "_earlier").exists(), "the same settings give the same files"
    evaluate(replace(settings, seed=settings.seed + 1), tmp_path)
    aside = tmp_path / "_earlier" / "1"
    assert {file.name for file in aside.iterdir()} == {"eval.json", "generations.parquet"}
    assert json.loads((aside / "eval.json").read_text())["settings"] == json.loads(json.dumps(first["settings"]))
    assert f"it lies in {aside} now" in caplog.text


def test_other_weights_in_the_same_folder_are_another_model(settings: EvaluationSettings, tmp_path: Path) -> None:
    files = [
        evaluate(
            replace(settings, model=str(save_tiny_model(tmp_path / "model", seed=seed)), limit=1),
            tmp_path / "out",
        )["settings"]["model_files"]
        for seed in (0, 0, 1)
    ]
    assert files[0] == files[1]
    assert [name for name, digest in files[0].items() if files[2][name] != digest] == ["model.safetensors"]


def test_chat_prompts_go_through_the_models_template(settings: EvaluationSettings, tmp_path: Path) -> None:
    evaluate(replace(settings, template="chat"), tmp_path)
    prompts = pq.read_table(tmp_path / "generations.parquet")["prompt"].to_pylist()
    assert all(prompt.startswith("<|system|>") and prompt.endswith("<|assistant|>") for prompt in prompts)


def test_the_run_that_trained_a_model_decides_task_and_template(settings: EvaluationSettings, tmp_path: Path) -> None:
    checkpoint = save_tiny_model(tmp_path / "run" / "checkpoint-10")
    config = {"task": "multiplication", "prompt_template": "qwen-instruct", "digits": [1], "test_size": 6}
    config |= {"window_strategy": "fixed"}
    (tmp_path / "run" / "config.yaml").write_text(json.dumps({**config, "learning_rate": 1e-6}))
    result = evaluate(replace(settings, model=str(checkpoint), data="generate"), tmp_path / "out")
    assert (result["settings"]["task"], result["settings"]["template"]) == ("multiplication", "qwen-instruct")
    assert (result["problems"], list(result["difficulty"])) == (6, ["1"])


def test_command_prints_and_writes(settings: EvaluationSettings, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["eval", "--model", settings.model, "--data", settings.data, "--max-completion-length", "12"]
    assert main([*command, "--out", str(tmp_path), "--limit", "5"]) == 0
    printed = capsys.readouterr()
    result = json.loads((tmp_path / "eval.json").read_text())
    assert f"{result['acc']:.2%}  95 % [{result['acc_low']:.2%}, {result['acc_high']:.2%}], 5 problems" in printed.out
    assert printed.err == "", "quiet when standard error is no terminal"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model", "/no/such/model", "model: '/no/such/model' is no folder; give"),
        ("--data", "/no/such/data.parquet", "/no/such/data.parquet"),
        ("--data", ".", "test.parquet"),
        ("--limit", "0", "limit: 0 is below 1; set it to 1 or more"),
        ("--n", "0", "n: 0 is below 1; set it to 1 or more"),
        ("--n", "4", "n: 4 greedy samples (temperature 0.0) are all the same; set --temperature above 0"),
        ("--temperature", "-0.5", "temperature: -0.5 is no temperature; use 0 (greedy) or a positive number"),
        ("--temperature", "nan", "temperature: nan is no temperature"),
        ("--seed", "-1", "seed: -1 is negative"),
        ("--batch-size", "0", "batch_size: 0 is below 1"),
        ("--engine", "magic", "engine: 'magic' is unknown; use one of auto, transformers, vllm"),
        ("--task", "chess", "task: 'chess' is unknown"),
        ("--template", "latin", "template: 'latin' is unknown"),
        ("--max-completion-length", "4096", "exceed the model's 512 positions; use at most "),
    ],
)
def test_bad_input_is_one_clear_line(
    settings: EvaluationSettings,
    option: str,
    value: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"--model": settings.model, "--data": settings.data, "--max-completion-length": "12"} | {option: value}
    assert main(["eval", *(word for pair in options.items() for word in pair)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [], "bad input leaves nothing behind"


def test_answers_without_files_need_no_model(
    settings: EvaluationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "write_rows", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        evaluate(settings, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(run_module, "make_engine", lambda *_: pytest.fail("everything was answered already"))
    assert evaluate(settings, tmp_path)["generations"] == 3 * len(PROBLEMS)


def test_too_large_a_batch_goes_on_with_a_smaller_one(
    settings: EvaluationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(settings, tmp_path / "whole")
    start = TransformersEngine.start

    def start_small_batches(engine: Any, prompt_ids: list[list[int]], *args: Any) -> Any:
        if len(prompt_ids) > 4 and len(prompt_ids[0]) > shortest:
            raise torch.OutOfMemoryError
        return start(engine, prompt_ids, *args)

    rows = pq.read_table(tmp_path / "whole" / "generations.parquet").to_pylist()
    shortest = min(row["prompt_length"] for row in rows)
    monkeypatch.setattr(TransformersEngine, "start", start_small_batches)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"batch_size: 8 rows do not fit.*smaller --batch-size, it goes on"):
        evaluate(settings, out)
    assert len((out / "generations.partial.jsonl").read_text().splitlines()) > 1
    evaluate(replace(settings, batch_size=4), out)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_terminal_shows_the_running_accuracy(
    settings: EvaluationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(run_module, "Console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    result = evaluate(settings, tmp_path)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert f"accuracy {result['acc']:6.1%}" in shown and "33/33" in shown


@pytest.mark.vllm
def test_vllm_writes_what_transformers_writes(
    settings: EvaluationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    greedy = replace(settings, temperature=0.0, n=1)
    for engine in ("transformers", "vllm"):
        evaluate(replace(greedy, engine=engine), tmp_path / engine)
    ours, theirs = (
        pq.read_table(tmp_path / engine / "generations.parquet").to_pylist() for engine in ("transformers", "vllm")
    )
    assert ours == theirs
    assert {row["truncated"] for row in ours} == {True, False}

    for name in ("sampled", "again"):
        evaluate(replace(settings, engine="vllm"), tmp_path / name)
    assert contents(tmp_path / "sampled") == contents(tmp_path / "again")


def test_copies_among_the_examples_are_said(settings: EvaluationSettings, tmp_path: Path) -> None:
    rows = [{"nums": [1, 2], "target": 3}, {"nums": [2, 2], "target": 4}, {"nums": [1, 2], "target": 3}]
    (tmp_path / "twice.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    given = replace(settings, data=str(tmp_path / "twice.jsonl"), n=1)
    copies = "1 of 3 prompts are copies of others; intervals take them for new problems"
    assert evaluate(given, tmp_path / "all")["notes"] == [copies]
    assert evaluate(replace(given, limit=2), tmp_path / "two")["notes"] == []


def test_a_task_without_scores_is_told_before_the_model_loads(
    settings: EvaluationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(countdown.Countdown, "score", lambda self, completion, example: 1.0)
    monkeypatch.setattr(run_module, "make_engine", lambda *_: pytest.fail("loads the model"))
    with pytest.raises(ValueError, match=r"task: countdown scores an empty completion with 1.0; return Score\("):
        evaluate(settings, tmp_path)


def test_a_label_is_shown_as_one_plain_line(
    settings: EvaluationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(countdown.Countdown, "difficulty", lambda self, example: "very\n\x1b[31mhard " + "x" * 99)
    result = evaluate(replace(settings, n=1), tmp_path)
    [label] = result["difficulty"]
    assert label.startswith("very [31mhard xxxx") and len(label) == 40


def test_a_task_that_returns_nan_leaves_json_that_every_program_reads(
    settings: EvaluationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score(self: Any, completion: str, example: Any) -> Score:
        return Score(float("nan") if completion else 0.0, "failed")

    monkeypatch.setattr(countdown.Countdown, "score", score)
    evaluate(replace(settings, n=1), tmp_path)
    result = json.loads((tmp_path / "eval.json").read_text(), parse_constant=pytest.fail)
    assert 0 < result["unjudged"] <= result["generations"] == len(PROBLEMS)


def test_options_of_the_task_may_be_given(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model without a run is asked and scored as the one that it is compared with."""
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1 + 1", "answer": "2"}\n')
    given = ["eval", "--model", str(model), "--data", str(tmp_path / "rows.jsonl"), "--task", "prompt_answer"]
    given += ["--max-completion-length", "4", "--template", "plain"]
    for options, answer in ((None, "exact"), ('{"answer_match": "numeric"}', "numeric")):
        out = tmp_path / answer
        assert main([*given, *(["--task-options", options] if options else []), "--out", str(out)]) == 0
        assert json.loads((out / "eval.json").read_text())["settings"]["task_options"]["answer_match"] == answer
    faults = {'{"tolerance": 1}': "tolerance is no option of the task", '{"answer_match": 3}': "does not fit"}
    for options, message in faults.items():
        assert main([*given, "--task-options", options, "--out", str(tmp_path / "no")]) == 2
        assert message in capsys.readouterr().err


OWN = """
from tinyzero_trl.tasks import Score, Task
class Own(Task):
    columns = {"text": str, "size": int}
    def question(self, example): return example["text"]
    def score(self, completion, example): return Score(SCORE, "own")
"""


def test_answers_scored_by_other_code_do_not_pass_for_those_of_this_one(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "own_scores.py"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "1 + 1", "size": 1}\n{"text": "1 + 2", "size": 2}\n')
    given = ["eval", "--model", str(model), "--data", str(tmp_path / "rows.jsonl"), "--task", "own_scores:Own"]
    given += ["--max-completion-length", "4", "--batch-size", "1", "--out", str(tmp_path / "out")]
    module.write_text(OWN.replace("SCORE", "1.0 if example['size'] == 1 or completion == '' else 1 / 0"))
    with pytest.raises(RuntimeError):
        main(given)
    module.write_text(OWN.replace("SCORE", "0.0"))
    assert main(given) == 2
    assert "is the unfinished part of another evaluation (task_code" in capsys.readouterr().err


def test_a_number_that_no_file_can_hold_is_told_before_a_model_loads(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = OWN.replace("SCORE", "half if completion else 0.0") + "from numpy import float32\nhalf = float32(0.5)\n"
    (tmp_path / "own_sizes.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    given = ["eval", "--model", str(model), "--data", str(tmp_path / "rows.jsonl"), "--task", "own_sizes:Own"]
    given += ["--max-completion-length", "4", "--out", str(tmp_path / "out")]
    (tmp_path / "rows.jsonl").write_text('{"text": "1 + 1", "size": 99999999999999999999}\n')
    assert main(given) == 2 and "beyond the whole numbers of 64 bits" in capsys.readouterr().err
    (tmp_path / "rows.jsonl").write_text('{"text": "1 + 1", "size": 9}\n')
    assert main(given) == 0 and "mean reward     0.5" in capsys.readouterr().out
