"""The embedded model's tokenizer and the traces it is warm-started on."""

import random
import re
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch
from countdown_solver import find_expression
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinyzero_trl.commands.main import main
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.models.toy import curricula
from tinyzero_trl.models.toy.curricula import CURRICULA, DEMO, IMPATIENT, LENGTHS, SMALL, TINY, Curriculum
from tinyzero_trl.models.toy.tokenizer import LARGEST_WHOLE_INTEGER, build_tokenizer
from tinyzero_trl.models.toy.traces import (
    LARGEST_INTERMEDIATE,
    MOST_DOTS,
    MOST_STEPS,
    STRETCH,
    countdown_trace,
    counting_trace,
    multiplication_trace,
)
from tinyzero_trl.models.toy.warmstart import build_model, tokenized, trace_dataset, traces, warm_start
from tinyzero_trl.runs.lock import locked
from tinyzero_trl.tasks import Problem, countdown, counting, get_task, multiplication
from tinyzero_trl.tasks.prompts import TEMPLATES
from tinyzero_trl.training.recipe.parser import parse_recipe
from tinyzero_trl.training.run import load_problems

EMBEDDED = Path(resolve_model("embedded"))
LARGEST_FOLDER_BYTES = 8 * 2**20

tokenizer = cache(build_tokenizer)
problems = cache(lambda: countdown.generate(150, seed=5, operands=(3,), max_number=12))


def encode(text: str) -> list[int]:
    return tokenizer()(text, add_special_tokens=False)["input_ids"]


def decode(ids: list[int]) -> str:
    return tokenizer().decode(ids)


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_as_it_went_in(text: str) -> None:
    assert decode(encode(text)) == text


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "naïve 漢字 🙂", "007 12345", "3.5 < 4", "<think></think>", "<answer", "\x00"]
)
def test_awkward_text_comes_back_as_it_went_in(text: str) -> None:
    assert decode(encode(text)) == text


@pytest.mark.parametrize("task", [countdown, multiplication])
def test_prompts_of_every_template_come_back_as_they_went_in(task) -> None:
    for problem in task.generate(20, seed=1):
        for template in TEMPLATES:
            prompt = task.render_prompt(problem, template)
            if template == "chat":
                prompt = tokenizer().apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
                assert prompt.endswith("<|im_start|>assistant\n")
            assert decode(encode(prompt)) == prompt


def test_a_base_prompt_is_short() -> None:
    lengths = [len(encode(countdown.render_prompt(problem, "base"))) for problem in problems()]
    assert max(lengths) <= 16


def test_every_integer_a_trace_may_hold_is_one_token() -> None:
    assert LARGEST_WHOLE_INTEGER == LARGEST_INTERMEDIATE == 200
    assert [number for number in range(LARGEST_WHOLE_INTEGER + 1) if len(encode(str(number))) != 1] == []
    assert len({encode(str(number))[0] for number in range(LARGEST_WHOLE_INTEGER + 1)}) == LARGEST_WHOLE_INTEGER + 1


def test_integers_stay_whole_inside_a_trace() -> None:
    pieces = [decode([token]) for token in encode("12*11=132: 132-45=87< ")]
    assert [piece for piece in pieces if piece.isdigit()] == ["12", "11", "132", "132", "45", "87"]


def test_the_tokenizer_reads_alike_after_it_was_saved_beside_a_qwen2(tmp_path: Path) -> None:
    """AutoTokenizer looks at the model's architecture, and gives the vocabulary of a Qwen2 that one's own splitting."""
    build_model(tokenizer(), TINY, seed=0).config.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    assert reloaded.padding_side == "left"
    assert (reloaded.eos_token_id, reloaded.pad_token_id) == (tokenizer().eos_token_id, tokenizer().pad_token_id)
    assert reloaded.eos_token_id != reloaded.pad_token_id
    for problem in problems()[:20]:
        text = str(countdown.render_prompt(problem, "base")) + (countdown_trace(problem, random.Random(0)) or "")
        assert reloaded(text, add_special_tokens=False)["input_ids"] == encode(text)
        assert reloaded.decode(encode(text)) == text


def test_every_countdown_trace_is_right_and_true() -> None:
    written = 0
    for problem in problems():
        trace = countdown_trace(problem, random.Random(problem.target))
        if trace is None:
            continue
        written += 1
        assert countdown.score(trace, problem.numbers, problem.target).reward == 1.0, trace
        thought, _ = trace.split("!</think>\n<answer>")
        for left, operator, right, result in re.findall(r"(\d+)([+*/-])(\d+)=(\d+)", thought):
            value = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}
            assert value.get(operator, int(left) / (int(right) or 1)) == int(result), trace
            assert int(result) <= LARGEST_INTERMEDIATE
        for result, mark in re.findall(r"=(\d+)([<>])", thought):
            assert (int(result) < problem.target) == (mark == "<") and int(result) != problem.target, trace
    assert written > 0.9 * len(problems()), "nearly every problem has a solution in whole numbers"


def test_a_trace_of_four_numbers_that_loops_ends_in_dots_without_an_answer() -> None:
    dots = []
    for seed, problem in enumerate(countdown.generate(100, seed=6, operands=(4,), max_number=12)):
        trace = countdown_trace(problem, random.Random(seed), loop_probability=1.0)
        if trace is None or "</think>" in trace:
            continue  # found in the first line
        searched, stuck = trace.rsplit("\n", 1)
        assert searched.count(":") == 2 and "\n" not in searched, "after the first line, which follows two operations"
        assert stuck == "." * len(stuck)
        assert len(encode(stuck)) == len(stuck), "each is a token"
        assert countdown.score(trace, problem.numbers, problem.target).reward == 0.0
        dots.append(len(stuck))
    assert len(dots) > 80
    assert min(dots) < 10 < 100 < max(dots) <= MOST_DOTS


def test_a_trace_of_three_numbers_never_loops() -> None:
    for problem in problems():
        always, never = (countdown_trace(problem, random.Random(2), loop_probability=odds) for odds in (1.0, 0.0))
        assert always == never


def test_an_end_follows_an_answer_alone() -> None:
    end = tokenizer().eos_token_id
    texts = ["=10!</think>\n<answer>7+3</answer>", "=10!\n....."]
    rows = tokenized({"prompt": ["7+3", "7+3"], "completion": texts}, tokenizer=tokenizer())
    answered, stuck = rows["input_ids"]
    assert answered[-1] == end and rows["completion_mask"][0] == [0] * 3 + [1] * (len(answered) - 3)
    assert end not in stuck and decode(stuck) == "7+3=10!\n....."


def test_a_trace_that_gives_up_does_so_after_its_first_line() -> None:
    for problem in problems():
        whole, given_up = (countdown_trace(problem, random.Random(3), give_up_probability=odds) for odds in (0.0, 1.0))
        if whole is None or given_up is None:
            continue
        first_line = whole.split("\n")[0].removesuffix("</think>")
        assert given_up.split("</think>")[0] == (first_line if "!" in first_line else f"{first_line} ?")


def test_a_problem_without_a_solution_in_whole_numbers_has_no_trace() -> None:
    assert find_expression((1, 1, 1), 100) is None
    assert countdown_trace(Problem((1, 1, 1), 100), random.Random(0)) is None


def test_lengths_of_traces_have_a_long_tail() -> None:
    """For one and the same problem: so a longer rollout buys more success."""
    problem = problems()[0]
    lengths = sorted(len(encode(countdown_trace(problem, random.Random(seed)) or "")) for seed in range(60))
    assert lengths[-4] > 4 * lengths[3]


@pytest.mark.parametrize("digits", [(1,), (2,), (3,)])
def test_every_multiplication_trace_is_right_and_true(digits: tuple[int, ...]) -> None:
    generator = random.Random(0)
    for problem in multiplication.generate(40, seed=2, digits=digits):
        trace = multiplication_trace(problem, generator)
        assert multiplication.score(trace, problem.numbers, problem.target).reward == 1.0, trace
        for left, operator, right, result in re.findall(r"(\d+)([+*])(\d+)=(\d+)", trace):
            assert int(result) == (int(left) + int(right) if operator == "+" else int(left) * int(right)), trace


def test_a_counting_trace_to_its_end_is_right_and_four_tokens_a_line_long() -> None:
    words = build_tokenizer(["counting"])
    for problem in counting.generate(60, seed=3, steps=(1, 4, 28)):
        trace = counting_trace(problem, random.Random(0))
        assert counting.score(trace, problem.numbers, problem.target).reward == 1.0, trace
        start, step, steps = problem.numbers
        lines = trace.split("!")[0].splitlines()
        assert lines == [f"{line}:{start + step * line}" for line in range(1, steps + 1)]
        assert len(words(trace)["input_ids"]) == 4 * steps + 5
        assert len(words(str(counting.render_prompt(problem, "base")))["input_ids"]) == 7


def test_a_counting_trace_gives_up_at_the_beginning_of_a_stretch_with_the_mark_of_that_stretch() -> None:
    problem = counting.to_problem([5, 3, 28], 89)
    traces_of_problem = {counting_trace(problem, random.Random(seed), give_up_probability=0.5) for seed in range(80)}
    ends = {trace.split("\n")[-2].removesuffix("</think>") for trace in traces_of_problem}
    assert ends == {"?", "~", "#", "&", "28:89!"}
    for trace in traces_of_problem:
        lines = trace.split("</think>")[0].splitlines()
        assert len(lines) in (1, STRETCH + 1, 2 * STRETCH + 1, 3 * STRETCH + 1, 28)
        reward = counting.score(trace, problem.numbers, problem.target).reward
        assert reward == float(trace.endswith("!</think>\n<answer>89</answer>"))


def test_counting_traces_loop_in_many_steps_and_not_in_few() -> None:
    few, many = (counting.to_problem([5, 1, steps], 5 + steps) for steps in (MOST_STEPS, MOST_STEPS + 1))
    assert counting_trace(few, random.Random(0), loop_probability=1.0) == counting_trace(few, random.Random(0))
    lost = {counting_trace(many, random.Random(seed), loop_probability=1.0) for seed in range(9)}
    assert lost == {"." * MOST_DOTS, "=</think>\n<answer>5</answer>"}


@pytest.mark.parametrize("curriculum", CURRICULA.values(), ids=CURRICULA)
def test_held_out_problems_never_occur_in_traces(curriculum: Curriculum) -> None:
    train, held_out = (
        {
            str(get_task(task.name).prompt(problem.example, "base"))
            for task in curriculum.tasks
            for problem in part(task)
        }
        for part in (lambda task: task.split[0], lambda task: task.split[1])
    )
    for phase in curriculum.phases:
        seen = {row["prompt"] for row in islice(traces(curriculum, phase, seed=0), 2000)}
        assert not seen & held_out
        assert seen <= train and len(seen) > 500


def test_training_rows_are_the_same_however_many_are_asked_for() -> None:
    few, more = (trace_dataset(batches, TINY, TINY.phases[1], seed=1) for batches in (2, 4))
    assert len(few) == 2 * TINY.batch_traces
    assert more[: len(few)] == few[:]


def test_phases_are_shortened_in_proportion() -> None:
    assert [phase.steps for phase in TINY.shortened(28).phases] == [20, 8]
    assert [phase.steps for phase in TINY.shortened(2).phases] == [1, 1]
    with pytest.raises(ValueError, match=r"^steps: 1 is below 2, one for each training phase"):
        TINY.shortened(1)


@pytest.mark.slow
def test_the_phases_come_one_after_the_other(tmp_path: Path) -> None:
    short = TINY.shortened(2)
    first, both = (
        AutoModelForCausalLM.from_pretrained(warm_start(tmp_path / name, curriculum, show_progress=False))
        for name, curriculum in (("first", replace(short, phases=short.phases[:1])), ("both", short))
    )
    weights = [model.get_input_embeddings().weight for model in (first, both)]
    untaught = build_model(tokenizer(), TINY, seed=0).get_input_embeddings().weight
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], untaught)
    assert AutoTokenizer.from_pretrained(tmp_path / "both")("12")["input_ids"] == encode("12")


def test_a_model_that_is_in_the_folder_is_kept_and_a_runs_folder_is_refused(tmp_path: Path, caplog) -> None:
    short = TINY.shortened(2)
    short = replace(short, phases=short.phases[:1], hidden_size=64, layers=1, attention_heads=2, key_value_heads=2)
    (tmp_path / "model.safetensors").write_text("of another size")
    (tmp_path / "notes.txt").touch()
    warm_start(tmp_path, short, show_progress=False)
    aside = tmp_path / "_earlier" / "1"
    assert [file.name for file in aside.iterdir()] == ["model.safetensors"]
    assert (aside / "model.safetensors").read_text() == "of another size" and (tmp_path / "notes.txt").exists()
    assert f"out: another model was in {tmp_path}; it lies in {aside} now" in caplog.text

    for record in ("metrics.jsonl", "environment.json", "metrics.jsonl.gz"):  # the second is there before any step
        (tmp_path / record).touch()
        with pytest.raises(ValueError, match=r"^out: .* is the folder of a training run; name another folder$"):
            warm_start(tmp_path, short, show_progress=False)
        (tmp_path / record).unlink()
    with pytest.raises(ValueError, match=r"^out: '.*notes.txt' is a file; name a folder$"):
        warm_start(tmp_path / "notes.txt", short, show_progress=False)


def test_a_warm_start_waits_for_no_training_to_learn_that_its_folder_is_in_use(tmp_path: Path, capsys) -> None:
    with locked(tmp_path, "out"):
        assert main(["warmstart", "--steps", "2", "--out", str(tmp_path)]) == 2
    assert f"out: {str(tmp_path)!r} is in use by another program" in capsys.readouterr().err


@pytest.mark.slow
def test_the_small_curriculum_is_taught_and_measured_by_the_same_command(tmp_path: Path, capsys, monkeypatch) -> None:
    """With a model and batches that a test can pay for: problems, traces and phases are those for a GPU."""
    shape = {"hidden_size": 64, "layers": 1, "attention_heads": 2, "batch_traces": 4, "max_completion_length": 32}
    monkeypatch.setitem(curricula.CURRICULA, "small", replace(SMALL, **shape))
    assert main(["warmstart", "--size", "small", "--steps", "2", "--out", str(tmp_path / "small")]) == 0
    *_, measured, folder = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"countdown: \d+\.\d% of 512 held-out problems, 3\d tokens on average, .*", measured)
    assert folder == str(tmp_path / "small")
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "small").config
    assert (config.hidden_size, config.max_position_embeddings) == (64, 4096)


def test_the_small_model_has_the_size_that_is_documented() -> None:
    with torch.device("meta"):
        model = build_model(tokenizer(), SMALL, seed=0)
    assert model.num_parameters() == 30_685_696
    assert SMALL.longest_row <= SMALL.max_positions and 16 + SMALL.max_completion_length <= SMALL.longest_row


@pytest.mark.parametrize(
    ("name", "curriculum", "text"),
    [
        ("embedded-demo", DEMO, f"{countdown.render_prompt(problems()[0], 'base')}3+4=7: 7*5=35<"),
        ("embedded-impatient", IMPATIENT, f"{countdown.render_prompt(problems()[0], 'base')}3+4=7: 7*5=35<"),
        (
            *("embedded-lengths", LENGTHS),
            f"{counting.render_prompt(counting.to_problem([5, 3, 4], 17), 'base')}1:8\n2:11",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("embedded") else "",
)
def test_the_other_models_are_shipped_too(name: str, curriculum: Curriculum, text: str) -> None:
    folder = Path(resolve_model(name))
    assert sum(file.stat().st_size for file in folder.rglob("*")) <= LARGEST_FOLDER_BYTES
    model, shipped = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert len(shipped) <= model.config.vocab_size
    ids = build_tokenizer(curriculum.tokenizer_tasks)(text)["input_ids"]
    assert shipped(text)["input_ids"] == ids, "build_tokenizer has changed: run tinyzero-trl warmstart"


def test_only_the_word_embedded_stands_for_the_embedded_model() -> None:
    assert resolve_model("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"
    assert EMBEDDED.name == "embedded" and EMBEDDED.parent.name == "toy"


def test_the_embedded_model_is_small_loads_and_fits_its_tokenizer() -> None:
    assert sum(file.stat().st_size for file in EMBEDDED.rglob("*")) <= LARGEST_FOLDER_BYTES
    model, shipped = AutoModelForCausalLM.from_pretrained(EMBEDDED), AutoTokenizer.from_pretrained(EMBEDDED)
    config = model.config
    assert (config.model_type, model.dtype.itemsize) == ("qwen2", 4)
    assert config.hidden_size // config.num_attention_heads in (32, 64), "vLLM's kernels for the CPU know these"
    assert len(shipped) <= config.vocab_size
    assert {config.eos_token_id, config.pad_token_id} == {shipped.eos_token_id, shipped.pad_token_id}
    text = str(countdown.render_prompt(problems()[0], "base"))
    assert shipped(text)["input_ids"] == encode(text), "build_tokenizer has changed: run tinyzero-trl warmstart"


@pytest.mark.parametrize(
    ("recipe", "options", "known"),
    [
        ("countdown_tiny", [], 0),
        ("lengths_tiny", [], 0),
        ("multiply_tiny", [], 0),
        ("countdown_tiny", ["--problem_seed", "1"], 725),
        ("countdown_tiny", ["--test_size", "512"], 17),
    ],
)
def test_held_out_problems_of_the_warm_start_are_told(recipe: str, options: list[str], known: int, caplog) -> None:
    task, _, model = parse_recipe(["--config", recipe, "--train_size", "64", *options])
    load_problems(task, str(model.model_name_or_path))
    told = [line for line in caplog.messages if "were in the warm start of embedded" in line]
    assert len(told) == (known > 0)
    assert not known or told[0].startswith(f"test_size: {known} of the {task.test_size} held-out problems")
