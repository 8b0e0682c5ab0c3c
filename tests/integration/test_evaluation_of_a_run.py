"""`eval` of a run: prompts and completions as in its training, and no example that it was trained on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
import yaml
from tokenizers import AddedToken
from transformers import AutoTokenizer

from tests.support.tiny_models import PROBLEMS, THINKING, build_model, save_tiny_model, write_problems
from tinyzero_trl.commands.main import main
from tinyzero_trl.evaluation import EvaluationSettings, evaluate
from tinyzero_trl.evaluation import run as run_module
from tinyzero_trl.evaluation import settings as settings_module
from tinyzero_trl.evaluation.trained_by import TrainedBy, find_run
from tinyzero_trl.generation.completions import Completion
from tinyzero_trl.generation.engine import Sampling
from tinyzero_trl.runs.json_lines import digest_of
from tinyzero_trl.tasks import Example, Score, Task
from tinyzero_trl.tasks.arithmetic.countdown import Countdown
from tinyzero_trl.tasks.config import TaskConfig, task_config
from tinyzero_trl.tasks.splits import generated_held_out, load_splits
from tinyzero_trl.training.preflight.resuming import example_digests
from tinyzero_trl.training.run import load_problems

TEMPLATE = (
    "{% if not enable_thinking %}0 0 0 {% endif %}"
    "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} {% endfor %}<|assistant|>"
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "run")


def configure(run: Path, **fields: Any) -> None:
    (run / "config.yaml").write_text(yaml.safe_dump({"task": "countdown", "train_size": 4, "test_size": 4, **fields}))


def rows(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "generations.parquet").to_pylist()


def digest(examples: Sequence[Example]) -> str:
    """What `eval.json` has as `problems`."""
    return digest_of([list(example.values()) for example in examples])


def settings(run: Path, tmp_path: Path, **given: Any) -> EvaluationSettings:
    data = tmp_path / "problems.jsonl"
    return EvaluationSettings(model=str(run), data=str(write_problems(data)), **given)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sampling, int]]:
    """What the engine is asked for; nothing is sampled."""
    asked: list[tuple[Sampling, int]] = []

    def complete(engine: Any, prompt_ids: list[list[int]], sampling: Sampling, limit: int) -> list[Completion]:
        asked.append((sampling, limit))
        return [Completion((1,), "text", truncated=False)] * len(prompt_ids)

    monkeypatch.setattr(run_module, "complete", complete)
    return asked


def test_every_setting_that_shapes_a_completion_is_the_runs(
    run: Path, tmp_path: Path, asked: list[tuple[Sampling, int]]
) -> None:
    of_run = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1}
    configure(run, **of_run, max_completion_length=9, stop_at_answer=True, generation_kwargs={"stop_strings": ["7 8"]})
    result = evaluate(settings(run, tmp_path), tmp_path / "out")
    [[sampling, limit]] = asked
    assert {name: getattr(sampling, name) for name in of_run} == of_run
    assert (limit, sampling.stop_strings) == (9, ("7 8", "</answer>"))
    assert result["settings"].items() >= {**of_run, "max_completion_length": 9, "stop_at_answer": True}.items()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_precision_than_the_runs_is_said(
    dtype: str, run: Path, tmp_path: Path, asked: list[tuple[Sampling, int]]
) -> None:
    configure(run, max_completion_length=9, dtype=dtype)
    notes = evaluate(settings(run, tmp_path), tmp_path / "out")["notes"]
    assert notes == ([] if dtype == "float32" else ["sampled in float32; the run has its weights in bfloat16"])


def test_a_run_with_vllm_hands_on_its_end_tokens(run: Path, tmp_path: Path, asked: list[tuple[Sampling, int]]) -> None:
    configure(run, max_completion_length=9, generation_kwargs={"stop_token_ids": [7, 8], "stop": ["7 8"]})
    result = evaluate(settings(run, tmp_path), tmp_path / "out")
    [[sampling, _]] = asked
    assert sampling.end_token_ids[-2:] == (7, 8) and len(sampling.end_token_ids) > 2
    assert result["settings"]["end_token_ids"] == list(sampling.end_token_ids)
    assert (sampling.stop_strings, result["notes"]) == (("7 8",), [])


def test_what_else_the_run_sampled_with_is_said(run: Path, tmp_path: Path, asked: list[tuple[Sampling, int]]) -> None:
    configure(run, max_completion_length=9, generation_kwargs={"no_repeat_ngram_size": 3, "use_cache": True})
    [note] = evaluate(settings(run, tmp_path), tmp_path / "out")["notes"]
    assert note == "the run sampled with no_repeat_ngram_size of its generation_kwargs; this evaluation does not"


@pytest.mark.parametrize("template", ["chat", "base"])
def test_a_turn_is_scored_as_in_training(
    template: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response template takes reasoning and content apart; training scores the content alone."""
    tokenizer = AutoTokenizer.from_pretrained(run)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>")])
    tokenizer.chat_template, tokenizer.response_template = TEMPLATE, THINKING
    tokenizer.save_pretrained(run)
    build_model(tokenizer).save_pretrained(run)
    text = "<think>\n<answer> (1 + 2) * 3 </answer>\n</think>\n\n<answer> 1 + 2 + 3 </answer>"
    ids = tuple(tokenizer(text)["input_ids"])

    def complete(engine: Any, prompt_ids: list[list[int]], *_: Any) -> list[Completion]:
        return [Completion(ids, text, truncated=False)] * len(prompt_ids)

    scored: list[str] = []

    class Watched(Countdown):
        def score(self, completion: str, example: Any) -> Score:
            scored.append(completion)
            return super().score(completion, example)

    monkeypatch.setattr(run_module, "complete", complete)
    monkeypatch.setattr(TaskConfig, "make_task", lambda self: Watched())
    configure(run, prompt_template=template, max_completion_length=4)
    evaluate(settings(run, tmp_path, limit=1), tmp_path / "out")
    assert ("<think>" in scored[-1]) == (template == "base")
    assert "1 + 2 + 3" in scored[-1]
    assert rows(tmp_path / "out")[0]["completion"] == text


@pytest.mark.parametrize("kwargs", [{"stop": 3}, {"stop_strings": [3]}, {"stop_token_ids": ["</s>"]}])
def test_a_stop_of_a_wrong_type_is_one_line(run: Path, tmp_path: Path, kwargs: dict[str, Any]) -> None:
    configure(run, max_completion_length=9, generation_kwargs=kwargs)
    with pytest.raises(ValueError, match=r"config.yaml: generation_kwargs = .* does not fit; correct it there"):
        evaluate(settings(run, tmp_path), tmp_path / "out")


def test_the_command_line_wins_and_says_so(
    run: Path, tmp_path: Path, asked: list[tuple[Sampling, int]], capsys: pytest.CaptureFixture
) -> None:
    configure(run, temperature=0.7, max_completion_length=9)
    data = write_problems(tmp_path / "problems.jsonl")
    command = ["eval", "--model", str(run), "--data", str(data), "--temperature", "1", "--stop-at-answer", "true"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "temperature 1.0 is given; the run has 0.7\n" in printed
    assert "stop_at_answer True is given; the run has False\n" in printed
    [[sampling, limit]] = asked
    assert (sampling.temperature, sampling.stop_strings, limit) == (1.0, ("</answer>",), 9)
    assert json.loads((tmp_path / "out" / "eval.json").read_text())["settings"]["max_completion_length"] == 9


def test_prompts_are_those_of_the_runs_chat_template_arguments(run: Path, tmp_path: Path) -> None:
    (run / "chat_template.jinja").write_text(TEMPLATE)
    lengths = {}
    for thinking in (True, False):
        configure(
            run, prompt_template="chat", chat_template_kwargs={"enable_thinking": thinking}, max_completion_length=4
        )
        evaluate(settings(run, tmp_path), tmp_path / str(thinking))
        lengths[thinking] = [row["prompt_length"] for row in rows(tmp_path / str(thinking))]
    assert lengths[False] == [length + 3 for length in lengths[True]]


@pytest.mark.parametrize("positions", [512, 100_000, None])
def test_greedy_and_as_many_tokens_as_fit_without_a_run(
    positions: int | None,
    run: Path,
    tmp_path: Path,
    asked: list[tuple[Sampling, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings_module, "positions_of", lambda config: positions)
    result = evaluate(settings(run, tmp_path), tmp_path / "out")
    longest = max(row["prompt_length"] for row in rows(tmp_path / "out"))
    limit = 512 - longest if positions == 512 else 4096
    [[sampling, limit_asked]] = asked
    assert limit_asked == result["settings"]["max_completion_length"] == limit
    assert sampling.temperature == result["settings"]["temperature"] == 0.0
    note = f"completions have at most {limit} tokens, as many as fit the model's 512 positions "
    assert result["notes"] == ([f"{note}(--max-completion-length sets another number)"] if positions == 512 else [])
    given = evaluate(settings(run, tmp_path, max_completion_length=4), tmp_path / "given")
    assert (given["settings"]["max_completion_length"], given["notes"]) == (4, [])


def test_examples_that_the_run_was_trained_on_are_left_out(run: Path, tmp_path: Path) -> None:
    trained, held_out = PROBLEMS[:4], PROBLEMS[4:]
    folder = tmp_path / "set"
    folder.mkdir()
    for name, part in (("train", trained), ("test", held_out[:1])):
        lines = [json.dumps({"nums": numbers[::-1], "target": target}) for numbers, target in part]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    configure(run, dataset=str(folder), max_completion_length=4, allow_overlap=True)
    keys = {(tuple(sorted(numbers)), target) for numbers, target in trained}
    kept = [problem for problem in PROBLEMS if (tuple(sorted(problem[0])), problem[1]) not in keys]
    assert len(kept) < len(held_out), "some occur twice, in another order"

    result = evaluate(settings(run, tmp_path), tmp_path / "out")
    assert [(tuple(row["numbers"]), row["target"]) for row in rows(tmp_path / "out")] == kept
    [note] = result["notes"]
    assert note.startswith(f"{len(PROBLEMS) - len(kept)} of {len(PROBLEMS)} examples are left out, because the run was")

    everything = evaluate(settings(run, tmp_path, include_trained=True, limit=5), tmp_path / "all")
    assert (everything["problems"], everything["notes"]) == (5, [])
    with pytest.raises(ValueError, match=r"data: the run was trained on all 4 examples; give --include-trained"):
        train = settings(run, tmp_path)
        evaluate(EvaluationSettings(model=train.model, data=str(folder / "train.jsonl")), tmp_path / "none")


def test_training_with_one_test_size_and_evaluation_with_another_share_nothing(run: Path, tmp_path: Path) -> None:
    """Other sizes draw other problems with the same seed."""
    options = {"operands": [3], "max_number": 9}
    configure(run, **options, train_size=300, test_size=64, max_completion_length=4)
    command = ["data", "countdown", "--operands", "3", "--max-number", "9", "--train-size", "1", "--test-size", "256"]
    assert main([*command, "--out", str(tmp_path / "data")]) == 0
    result = evaluate(
        EvaluationSettings(model=str(run), data=str(tmp_path / "data"), template="base"), tmp_path / "out"
    )
    assert 0 < result["problems"] < 256
    assert f"{256 - result['problems']} of 256 examples are left out" in result["notes"][0]


def test_training_data_that_is_gone_is_said(run: Path, tmp_path: Path) -> None:
    configure(run, dataset="gone/train.parquet", max_completion_length=4)
    [note] = evaluate(settings(run, tmp_path), tmp_path / "out")["notes"]
    assert note.startswith(
        "whether the run was trained on these examples cannot be told (dataset: 'gone/train.parquet'"
    )


@pytest.mark.parametrize("changed", ["train", "held_out"])
def test_data_that_has_changed_since_the_run_is_neither_its_held_out_set_nor_what_it_was_trained_on(
    changed: str, run: Path, tmp_path: Path
) -> None:
    folder, file = tmp_path / "set", {"train": "train", "held_out": "test"}[changed]
    folder.mkdir()

    def write(name: str, *targets: int) -> None:
        (folder / f"{name}.jsonl").write_text(
            "\n".join(json.dumps({"nums": [1, 2], "target": each}) for each in targets)
        )

    write("train", 1, 2, 3)
    write("test", 4, 5, 6)
    fields: dict[str, Any] = {"dataset": str(folder), "eval_size": 2}
    configure(run, **fields, prompt_template="base", max_completion_length=4)
    noted = example_digests(*load_problems(task_config(**fields)))
    (run / "environment.json").write_text(json.dumps({"examples": noted}))
    asked = EvaluationSettings(model=str(run), data="generate", template="qwen-instruct")
    assert evaluate(asked, tmp_path / "same")["problems"] == 3

    write(file, 7, 8, 9)
    with pytest.raises(ValueError, match=rf"^data: 'generate' is .* other examples \({changed}\) than the run began"):
        evaluate(asked, tmp_path / "changed")
    notes = evaluate(settings(run, tmp_path), tmp_path / "out")["notes"]
    cannot = f"whether the run was trained on these examples cannot be told (dataset: '{folder}' gives other"
    told = [note.startswith(cannot) for note in notes]
    assert told == ([True] if changed == "train" else []), "what was trained on is known with other held-out examples"


def test_a_held_out_set_whose_later_rows_decide_the_type_of_a_column_is_the_runs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column is of one type in a data set: 1 is 1.0 where 2.5 comes later, also after the rows that a run takes."""

    class Weighed(Task):
        columns: ClassVar[dict[str, type]] = {"text": str, "weight": float}

        def question(self, example: Example) -> str:
            return str(example["text"])

        def score(self, completion: str, example: Example) -> Score:
            return Score(0.0, "wrong")

    weights = {"train": [0.5, 1.5], "test": [1, 2, 2.5]}
    for name, values in weights.items():
        rows = [{"text": f"{name} {value}", "weight": value} for value in values]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields: dict[str, Any] = {"task": "countdown", "dataset": str(tmp_path), "eval_size": 2}
    monkeypatch.setattr(TaskConfig, "make_task", lambda self: Weighed())
    noted = example_digests(*load_problems(task_config(**fields)))
    (run / "environment.json").write_text(json.dumps({"examples": noted}))
    of_run = TrainedBy(run / "config.yaml", fields)
    held_out, notes = of_run.held_out(of_run.task_config(None, None), None)
    assert [example["weight"] for example in held_out] == weights["test"] and notes == []


OF_PYTHON = {"recipe": "own", "window_strategy": "signal", "max_completion_length": 4}
"""What `start_run` writes without a task, as far as an evaluation reads it."""


@pytest.mark.parametrize("task", [None, "countdown"])
def test_of_a_run_without_a_task_nothing_is_left_out_on_a_guess(task: str | None, run: Path, tmp_path: Path) -> None:
    """The training problems of Countdown's default settings are not those of a run from Python."""
    (run / "config.yaml").write_text(yaml.safe_dump(OF_PYTHON))
    assert main(["data", "countdown", "--train-size", "64", "--test-size", "1", "--out", str(tmp_path / "data")]) == 0
    guessed = EvaluationSettings(model=str(run), data=str(tmp_path / "data"), split="train", task=task)
    result = evaluate(guessed, tmp_path / "out")
    assert result["problems"] == 64
    assert result["notes"] == [
        f"{run}/config.yaml names no task, as of a run from Python: asked as countdown with its default options and "
        "the template base (--task and --template give others); the training examples are not known, so none is left "
        "out; give data that the run has not seen"
    ]


def test_the_held_out_set_of_a_run_without_a_task_is_not_guessed_either(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (run / "config.yaml").write_text(yaml.safe_dump(OF_PYTHON))
    command = ["eval", "--model", str(run), "--data", "generate", "--limit", "3", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"tinyzero-trl eval: data: 'generate' is the held-out set of the run, but {run}/config.yaml names no task, as "
        "of a run from Python; give --task, or --data FILE\n"
    )
    assert main([*command, "--task", "multiplication"]) == 0
    printed = capsys.readouterr().out
    assert "asked as multiplication with its default options and the template base (" in printed


def test_generate_is_the_held_out_set_of_a_run_on_a_file(run: Path, tmp_path: Path) -> None:
    """Whether its task has a generator or not: the rows that training measured, and no others."""
    questions = tmp_path / "questions.jsonl"
    lines = [json.dumps({"prompt": f"1 + {number}", "answer": number + 1}) for number in range(40)]
    questions.write_text("\n".join(lines))
    for task, dataset in (("prompt_answer", questions), ("countdown", write_problems(tmp_path / "problems.jsonl"))):
        configure(run, task=task, dataset=str(dataset), test_size=3, max_completion_length=4)
        held_out = load_splits(task_config(task=task, dataset=str(dataset), test_size=3)).held_out
        result = evaluate(EvaluationSettings(model=str(run), data="generate"), tmp_path / task)
        assert result["settings"]["problems"] == digest(held_out)
        [note, *_] = result["notes"]
        assert f"has no splits; {len(held_out)} of its" in note


def test_generate_of_another_task_than_the_runs_has_nothing_to_do_with_the_runs_file(run: Path, tmp_path: Path) -> None:
    configure(run, dataset=str(write_problems(tmp_path / "problems.jsonl")), max_completion_length=4)
    other = EvaluationSettings(model=str(run), data="generate", task="multiplication")
    held_out = generated_held_out(task_config(task="multiplication", test_size=4))
    assert evaluate(other, tmp_path / "out")["settings"]["problems"] == digest(held_out)


def test_another_task_that_lacks_the_runs_template_takes_its_own(run: Path, tmp_path: Path) -> None:
    """So is a set of its generator asked for without a word about templates; a wrong one is told by its own name."""
    configure(run, prompt_template="base", max_completion_length=4)
    trained_by = find_run(str(run))
    assert trained_by.task_config("multiplication", None).prompt_template == "base"
    assert trained_by.task_config("addition", None).prompt_template == "chat"
    with pytest.raises(ValueError, match=r"^template: 'base' is unknown; choose one of chat$"):
        trained_by.task_config("addition", "base")


def test_a_held_out_set_that_is_gone_is_one_line(run: Path, tmp_path: Path) -> None:
    configure(run, dataset="gone/train.parquet", max_completion_length=4)
    with pytest.raises(ValueError, match=r"^data: 'generate' is the held-out set of the run, which cannot be read aga"):
        evaluate(EvaluationSettings(model=str(run), data="generate"), tmp_path / "out")


@pytest.mark.parametrize("field", [{"temperature": "hot"}, {"top_k": 1.5}, {"chat_template_kwargs": [1]}])
def test_a_setting_of_a_wrong_type_is_one_line(run: Path, tmp_path: Path, field: dict[str, Any]) -> None:
    configure(run, **field)
    [name] = field
    with pytest.raises(
        ValueError, match=rf"config.yaml: {name} = .* does not fit; correct it there, or remove the file"
    ):
        evaluate(settings(run, tmp_path), tmp_path / "out")


@pytest.mark.parametrize("data", ["generate", "problems.jsonl"])
def test_a_split_that_means_nothing_is_refused(data: str, run: Path, tmp_path: Path) -> None:
    configure(run, max_completion_length=4)
    write_problems(tmp_path / "problems.jsonl")
    source = data if data == "generate" else str(tmp_path / data)
    asked = EvaluationSettings(model=str(run), data=source, split="train")
    with pytest.raises(ValueError, match=r"^split: 'train' means nothing for .*, which has none; leave it out"):
        evaluate(asked, tmp_path / "out")


def test_a_score_that_fails_says_whose_it_is(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(self: Any, completion: str, example: Any) -> Score:
        if completion:
            raise ValueError("invalid literal")
        return Score(0.0, "empty")

    monkeypatch.setattr(Countdown, "score", score)
    configure(run, max_completion_length=4)
    with pytest.raises(RuntimeError, match=r"task: countdown did not score the completion '.+'") as said:
        evaluate(settings(run, tmp_path), tmp_path / "out")
    assert isinstance(said.value.__cause__, ValueError)
