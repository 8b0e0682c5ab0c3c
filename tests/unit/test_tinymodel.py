"""The embedded model's tokenizer and the traces it is warm-started on."""

import random
import re
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinyzero_trl.tasks import Problem, countdown, multiplication
from tinyzero_trl.tinymodel import resolve_model
from tinyzero_trl.tinymodel.tokenizer import LARGEST_WHOLE_INTEGER, build_tokenizer
from tinyzero_trl.tinymodel.traces import LARGEST_INTERMEDIATE, MOST_DOTS, countdown_trace, multiplication_trace
from tinyzero_trl.tinymodel.warmstart import (
    BATCH_TRACES,
    COUNTDOWN,
    LESSONS,
    build_model,
    shortened,
    tokenized,
    trace_dataset,
    traces,
    warm_start,
)

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
        for template in task.TEMPLATES:
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
    build_model(tokenizer(), seed=0).config.save_pretrained(tmp_path)
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


def test_who_is_bewildered_by_four_numbers_writes_dots_and_no_answer() -> None:
    dots = []
    for seed, problem in enumerate(countdown.generate(100, seed=6, operands=(4,), max_number=12)):
        trace = countdown_trace(problem, random.Random(seed), bewilderment=1.0)
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


def test_three_numbers_bewilder_nobody() -> None:
    for problem in problems():
        bewildered, clear = (countdown_trace(problem, random.Random(2), bewilderment=odds) for odds in (1.0, 0.0))
        assert bewildered == clear


def test_an_end_follows_an_answer_alone() -> None:
    end = tokenizer().eos_token_id
    answered, stuck = (
        tokenized({"prompt": "7+3", "completion": text}, tokenizer=tokenizer())
        for text in ("=10!</think>\n<answer>7+3</answer>", "=10!\n.....")
    )
    assert answered["input_ids"][-1] == end and answered["completion_mask"] == [0] * 3 + [1] * (
        len(answered["input_ids"]) - 3
    )
    assert end not in stuck["input_ids"] and decode(stuck["input_ids"]) == "7+3=10!\n....."


def test_who_is_impatient_gives_up_after_a_line() -> None:
    for problem in problems():
        patient, impatient = (countdown_trace(problem, random.Random(3), impatience=odds) for odds in (0.0, 1.0))
        if patient is None or impatient is None:
            continue
        first_line = patient.split("\n")[0].removesuffix("</think>")
        assert impatient.split("</think>")[0] == (first_line if "!" in first_line else f"{first_line} ?")


def test_a_problem_without_a_solution_in_whole_numbers_has_no_trace() -> None:
    assert countdown.solve((1, 1, 1), 100) is None
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


def test_held_out_problems_never_occur_in_traces() -> None:
    held_out = {countdown.render_prompt(problem, "base") for problem in COUNTDOWN.split()[1]}
    train = {countdown.render_prompt(problem, "base") for problem in COUNTDOWN.split()[0]}
    seen = {row["prompt"] for row in islice(traces(lesson=LESSONS[0], seed=0), 2000)}
    assert not seen & held_out
    assert len(seen & train) > 500


def test_training_rows_are_the_same_however_many_are_asked_for() -> None:
    few, more = (trace_dataset(batches, lesson=LESSONS[1], seed=1) for batches in (2, 4))
    assert len(few) == 2 * BATCH_TRACES
    assert more[: len(few)] == few[:]


def test_lessons_are_shortened_in_proportion() -> None:
    assert [lesson.steps for lesson in shortened(LESSONS, 28)] == [20, 8]
    assert [lesson.steps for lesson in shortened(LESSONS, 2)] == [1, 1]
    with pytest.raises(ValueError, match=r"^steps: 1 is below 2, one for each lesson"):
        shortened(LESSONS, 1)


@pytest.mark.slow
def test_the_lessons_are_taught_one_after_the_other(tmp_path: Path) -> None:
    first, both = (
        AutoModelForCausalLM.from_pretrained(warm_start(tmp_path / name, lessons=lessons, show_progress=False))
        for name, lessons in (("first", shortened(LESSONS, 2)[:1]), ("both", shortened(LESSONS, 2)))
    )
    weights = [model.get_input_embeddings().weight for model in (first, both)]
    untaught = build_model(tokenizer(), seed=0).get_input_embeddings().weight
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], untaught)
    assert AutoTokenizer.from_pretrained(tmp_path / "both")("12")["input_ids"] == encode("12")


def test_only_the_word_embedded_stands_for_the_embedded_model() -> None:
    assert resolve_model("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"
    assert EMBEDDED.name == "embedded" and EMBEDDED.parent.name == "tinyzero_trl"


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
