"""The embedded model's tokenizer and the traces it is warm-started on."""

import random
import re
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinyzero_trl.tasks import Problem, countdown, multiplication
from tinyzero_trl.tinymodel import resolve_model
from tinyzero_trl.tinymodel.tokenizer import LARGEST_WHOLE_INTEGER, build_tokenizer
from tinyzero_trl.tinymodel.traces import LARGEST_INTERMEDIATE, countdown_trace, multiplication_trace
from tinyzero_trl.tinymodel.warmstart import BATCH_TRACES, COUNTDOWN, build_model, trace_dataset, traces

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
    seen = {row["prompt"] for row in islice(traces(seed=0), 2000)}
    assert not seen & held_out
    assert len(seen & train) > 500


def test_training_rows_are_the_same_however_many_are_asked_for() -> None:
    few, more = trace_dataset(2, seed=1), trace_dataset(4, seed=1)
    assert len(few) == 2 * BATCH_TRACES
    assert more[: len(few)] == few[:]


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
