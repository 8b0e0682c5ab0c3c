"""Answers of data that users bring: exact, numeric, or by math-verify as TRL does; and GSM8K."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tinyzero_trl.tasks import get_task, matching
from tinyzero_trl.tasks.config import task_config
from tinyzero_trl.tasks.datasets import read_examples, to_dataset
from tinyzero_trl.tasks.matching import EXACT, MATH, NUMERIC, check_expected, match, to_number
from tinyzero_trl.tasks.rewards import CosineShaping, reward_functions
from tinyzero_trl.tasks.splits import load_splits

needs_math_verify = pytest.mark.skipif(
    matching.find_spec("math_verify") is None,
    reason="math-verify is not installed; pip install 'tinyzero-trl[math-verify]'",
)


def tagged(answer: str) -> str:
    return f"hm <answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("completion", "expected", "how", "reason"),
    [
        (tagged(" New  York\n"), "New York", EXACT, "correct"),
        (tagged("new york"), "New York", EXACT, "wrong-answer"),
        (tagged("New Jersey"), "New York", EXACT, "wrong-answer"),
        (tagged("New York City"), "New York", EXACT, "wrong-answer"),
        (tagged("New"), "New York", EXACT, "wrong-answer"),
        ("New York", "New York", EXACT, "no-answer-tag"),
        (tagged("1,234.50"), "1234.5", NUMERIC, "correct"),
        (tagged("$ 3."), "3", NUMERIC, "correct"),
        (tagged("-3/4"), "-0.75", NUMERIC, "correct"),
        (tagged("0.3333333"), "1/3", NUMERIC, "correct"),
        (tagged("0.333"), "1/3", NUMERIC, "wrong-answer"),
        (tagged("0"), "0", NUMERIC, "correct"),
        (tagged("1.5E-3"), "0.0015", NUMERIC, "correct"),
        (tagged("1e3"), "1000", NUMERIC, "correct"),
        (tagged("1e999"), "1", NUMERIC, "wrong-answer"),
        (tagged("caf\u00e9"), "cafe\u0301", EXACT, "correct"),
        (tagged("1000001"), "1000000", NUMERIC, "wrong-answer"),
        (tagged("37873528"), "37873565", NUMERIC, "wrong-answer"),
        (tagged("37873566.0"), "37873565", NUMERIC, "wrong-answer"),
        (tagged("3.7873566e7"), "37873565", NUMERIC, "wrong-answer"),
        (tagged("37873528.5"), "37873565", NUMERIC, "wrong-answer"),
        (tagged("2.9999999"), "3", NUMERIC, "correct"),
        (tagged("12345678.5"), "12345678.4", NUMERIC, "correct"),
        (tagged("\N{MINUS SIGN}5"), "-5", NUMERIC, "correct"),
        (tagged("1.5e\N{MINUS SIGN}3"), "0.0015", NUMERIC, "correct"),
        (tagged("5,"), "5", NUMERIC, "correct"),
        (tagged("3/4."), "0.75", NUMERIC, "correct"),
        (tagged("1,234,"), "1234", NUMERIC, "correct"),
        (tagged("€3"), "3", NUMERIC, "correct"),
        (tagged("-£ 3.50"), "-3.5", NUMERIC, "correct"),
        (tagged("1/0"), "1", NUMERIC, "not-a-number"),
        (tagged("9**9**9"), "1", NUMERIC, "not-a-number"),
        (tagged("1e99999999"), "1", NUMERIC, "not-a-number"),
        (tagged("9" * 9_999), "1", NUMERIC, "not-a-number"),
        (tagged("9" + ",999" * 9_999), "1", NUMERIC, "not-a-number"),
        (tagged("__import__('os')"), "1", NUMERIC, "not-a-number"),
    ],
)
def test_an_answer_is_compared_as_asked(completion: str, expected: str, how: str, reason: str) -> None:
    assert match(completion, expected, how) == (float(reason == "correct"), reason)


@pytest.mark.parametrize("text", ["12,34", "½", "٣", "", "1 2", "--1", "1/2/3", ".", "+", "e3", "1e", "1e5.2"])
def test_what_is_no_number(text: str) -> None:
    assert to_number(text) is None


@needs_math_verify
@pytest.mark.parametrize(
    ("completion", "expected", "reward"),
    [
        (r"so \boxed{72}", "72", 1.0),
        (r"\boxed{1,000}", "1000", 1.0),
        (r"\boxed{\frac{1}{2}}", "0.5", 1.0),
        (r"\boxed{2x+1}", "1+2x", 1.0),
        (r"\boxed{71}", "72", 0.0),
        ("72", "72", 0.0),
        (r"\boxed{72", "72", 0.0),
        (r"\boxed{__import__('os').getcwd()}", "72", 0.0),
    ],
)
def test_math_verify_says_what_trls_reward_says(completion: str, expected: str, reward: float) -> None:
    from trl.rewards import accuracy_reward

    assert accuracy_reward([[{"role": "assistant", "content": completion}]], [f"${expected}$"]) == [reward]
    assert match(completion, expected, MATH).reward == reward


@needs_math_verify
@pytest.mark.parametrize(
    ("completion", "expected", "reward"),
    [
        (r"First \boxed{3}. No, that is wrong: \boxed{4}.", "4", 1.0),
        (r"First \boxed{3}. No, that is wrong: \boxed{4}.", "3", 0.0),
        (r"\boxed{3}\boxed{4}", "4", 1.0),
        (r"\boxed{3}, then \boxed{4", "3", 1.0),
        (r"\boxed{\boxed{4}}", "4", 1.0),
        (r"\boxed {4}", "4", 1.0),
        (r"\boxed{\{1, 2\}}", r"\{1,2\}", 1.0),
        (r"\boxed{3} and \boxed{}", "3", 0.0),
        (r"\boxed{\frac12}", r"\frac12", 1.0),
        (r"\boxed{\frac12}", r"$\frac12$", 1.0),
        (r"\boxed{ \sqrt2 }", r"\boxed{\sqrt2}", 1.0),
        (r"\boxed{\frac{1}{2}}", r"\frac12", 1.0),
        (r"\boxed{\frac13}", r"\frac12", 0.0),
        (r"\boxed{\text{Paris}}", r"\text{Paris}", 1.0),
        (r"\boxed{\text{Sirap}}", r"\text{Paris}", 0.0),
        (r"\boxed{yx}", "x*y", 1.0),
    ],
)
def test_the_last_box_counts_and_its_text_first(completion: str, expected: str, reward: float) -> None:
    check_expected(expected, MATH)
    assert match(completion, expected, MATH).reward == reward


@needs_math_verify
@pytest.mark.parametrize(
    "expected", ["Paris", "New York", "yes", "no.", "Jean-Paul", "Paris, France", "$Paris$", "été"]
)
def test_words_are_no_mathematics(expected: str) -> None:
    """`Sirap` would be right for `Paris`."""
    with pytest.raises(ValueError, match=r"is a product of letters for math-verify, .*; set answer_match to exact, or"):
        check_expected(expected, MATH)


@needs_math_verify
@pytest.mark.parametrize("expected", ["A", "x, y", "x + y", "2xy", r"\pi", r"\text{yes}", "x-y", "6 apples"])
def test_what_is_more_than_words_is_taken(expected: str) -> None:
    check_expected(expected, MATH)


def test_a_text_full_of_accents_takes_no_time() -> None:
    began_at = time.process_time()
    assert match(tagged("\u0301\u0316" * 15_000), "caf\u00e9", EXACT).reward == 0
    assert time.process_time() - began_at < 0.5


def test_boxes_without_end_take_no_time() -> None:
    began_at = time.process_time()
    for text in (r"\boxed{" * 40_000, r"\boxed{1" + "{" * 200_000, "}" * 200_000):
        assert matching._last_boxed(text) is None
    assert time.process_time() - began_at < 5


@needs_math_verify
def test_expected_answers_are_no_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain text would reach sympy's parser, which runs it; in LaTeX it does not."""
    import math_verify.parser

    monkeypatch.setattr(math_verify.parser, "parse_expr_cached", lambda text: pytest.fail(f"parses {text}"))
    for expected in ("72", "1/2", "2*(3+4)", "x+1"):
        check_expected(expected, MATH)
        match(r"\boxed{72}", expected, MATH)


@pytest.mark.parametrize(
    ("expected", "how", "message"),
    [
        (" ", EXACT, "answer: ' ' is empty"),
        ("many", NUMERIC, "answer: 'many' is no number; correct it, or set answer_match to exact or math_verify"),
        pytest.param("", MATH, "is empty", marks=needs_math_verify),
    ],
)
def test_a_row_that_nothing_matches_is_refused(expected: str, how: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_expected(expected, how)


# --- data of a user's own ---------------------------------------------------------------------------------------


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_own_data_goes_from_file_to_reward(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} + 1?", "answer": n + 1, "difficulty": n % 2} for n in range(20)]
    config = task_config(
        task="prompt_answer", dataset=write(tmp_path / "own.jsonl", rows), answer_match=NUMERIC, instruction="Say it."
    )
    train = load_splits(config).train
    columns = to_dataset(train, task=config.make_task(), template="chat")
    assert columns.column_names == [
        *("prompt", "example_prompt", "conversation", "answer", "example_difficulty", "difficulty")
    ]
    assert columns[0]["prompt"][1]["content"] == f"{train[0]['prompt']}\n\nSay it."
    assert set(columns["difficulty"]) == {"0", "1"}
    [score, cosine], weights = reward_functions(config.make_task(), CosineShaping(100))
    given = {name: columns[name][:2] for name in columns.column_names if name != "prompt"}
    completions = [tagged(f"{given['answer'][0]}.0"), tagged("7000")]
    assert score(completions=completions, **given) == [1.0, 0.0], "numeric, as the recipe says"
    assert cosine(completions=completions, completion_ids=[[1] * 50] * 2, **given) == [1.5, -5.0]
    assert weights == [0.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "how", "text"),
    [
        *((17, EXACT, "17"), (0.5, EXACT, "0.5"), (1e-5, EXACT, "0.00001"), ("12.0", EXACT, "12.0")),
        *((1e-5, NUMERIC, "0.00001"), (1e16, NUMERIC, "10000000000000000"), (12.0, NUMERIC, "12.0")),
    ],
)
def test_an_answer_that_is_a_number_is_written_out(answer: float | str, how: str, text: str) -> None:
    row = {"prompt": "How many?", "answer": answer}
    assert get_task("prompt_answer", {"answer_match": how}).read(row)["answer"] == text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": 12.0}, "answer: 12.0 is no text, and the answer 12 would be wrong; give text or a whole number"),
        ({"answer": float("nan")}, "answer: nan is no answer; give one, or remove the row"),
        ({"answer": None}, "answer: None is no answer; give one, or remove the row"),
        ({"difficulty": [3]}, r"difficulty: \[3\] must be a number or text; give one, or leave it out"),
        ({"difficulty": {"level": 3}}, r"difficulty: \{'level': 3\} must be a number or text"),
        ({"answer": float("inf")}, "answer: inf must be text or a number"),
        ({"answer": True}, "answer: True must be text or a number"),
        ({"answer": 10**400}, r"answer: 1000.*000 must be text or a number that a float can hold; write it as text"),
        ({"prompt": " \n"}, r"prompt: ' \\n' is empty; write one, or remove the row"),
        ({"prompt": [{"role": "user", "content": ""}]}, "prompt: '' is empty; write one, or remove the row"),
        (
            {"prompt": json.dumps([{"role": "user", "content": "p"}])},
            "is a list of messages written as text; give the l",
        ),
        (
            {"prompt": str([{"content": "p", "role": "user"}])},
            "is a list of messages written as text; give the list it",
        ),
        (
            {"prompt": "[{'name': 'x', 'content': 'p', 'role': 'system'}\n {'content': 'p', 'role': 'user'}]"},
            "is a list of messages written as text; give the list it",
        ),
    ],
)
def test_a_row_that_would_mislead_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_task("prompt_answer").read({"prompt": "How many?", "answer": "1"} | row)


def test_the_prompt_may_stay_as_it_is() -> None:
    example = {"prompt": "2 + 2 =", "conversation": [], "answer": "4", "difficulty": ""}
    assert get_task("prompt_answer", {"instruction": ""}).prompt(example, "plain") == "2 + 2 ="
    assert "between <answer> and </answer>" in get_task("prompt_answer").prompt(example, "plain")
    assert "as a number" in get_task("prompt_answer", {"answer_match": NUMERIC}).prompt(example, "base")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p"}, r"needs the columns prompt and answer; has \['prompt'\]"),
        ({"prompt": 7, "answer": "a"}, "row 1: prompt: 7 must be text or a list of messages"),
        ({"prompt": ["p"], "answer": "a"}, "row 1: prompt: 'p' must be a message, with a role"),
        (
            {"prompt": [{"role": "narrator", "content": "p"}], "answer": "a"},
            "must be a message, with a role .system, us",
        ),
        ({"prompt": [{"role": "user", "content": [{}]}], "answer": "a"}, "and a content that is text"),
        ({"prompt": [], "answer": "a"}, "row 1: prompt: a list of messages must end with one of the user's"),
        ({"prompt": [{"role": "assistant", "content": "p"}], "answer": "a"}, "must end with one of the user's; leave"),
        ({"prompt": "p", "answer": None}, "row 1: answer: None is no answer; give one"),
        ({"prompt": "p", "answer": True}, "row 1: answer: True must be text or a number"),
        ({"prompt": "p", "answer": "  "}, "row 1: answer: '  ' is empty"),
    ],
)
def test_rows_that_do_not_fit_are_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_examples(write(tmp_path / "own.jsonl", [row]), task="prompt_answer")


ROLES = ("system", "user", "assistant", "user")


def conversation(question: str) -> list[dict[str, str]]:
    contents = ("Be brief.", "1 + 1?", "2", question)
    return [{"role": role, "content": text} for role, text in zip(ROLES, contents, strict=True)]


@pytest.mark.parametrize(
    "prompt",
    [
        '[{"role": "nurse", "shift": 3}, {"role": "cook", "shift": 1}] How many nurses are there?',
        '[{"role": "user", "content": "p"}] Which role is it?',
        '[{"content": "apples", "role": "fruit"}]',
    ],
)
def test_a_question_may_begin_with_data(prompt: str) -> None:
    assert get_task("prompt_answer").read({"prompt": prompt, "answer": "1"})["prompt"] == prompt


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_a_prompt_may_be_a_list_of_messages(template: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": conversation(f"{n} + 1?"), "answer": n + 1} for n in range(20)]
    config = task_config(task="prompt_answer", dataset=write(tmp_path / "own.jsonl", rows), instruction="Say it.")
    train = load_splits(config).train
    columns = to_dataset(train, task=config.make_task(), template=template)
    assert columns[0]["prompt"] == conversation(f"{train[0]['prompt']}\n\nSay it.")
    given = {name: columns[name][:2] for name in columns.column_names if name != "prompt"}
    [score], _ = reward_functions(config.make_task(), None)
    assert score(completions=[tagged(given["answer"][0]), tagged("7000")], **given) == [1.0, 0.0]


def test_a_list_of_messages_needs_the_models_chat_template(tmp_path: Path) -> None:
    row = {"prompt": conversation("3 + 1?"), "answer": 4}
    [example] = read_examples(write(tmp_path / "own.jsonl", [row]), task="prompt_answer")
    with pytest.raises(ValueError, match=r"prompt_template: 'base' is for prompts that are text, .* use chat or plain"):
        to_dataset([example], task="prompt_answer", template="base")


def test_conversations_that_differ_in_an_earlier_message_are_two_examples() -> None:
    task = get_task("prompt_answer")
    first, second = conversation("3 + 1?"), conversation("3 + 1?")
    second[0]["content"] = "Be long."
    keys = {task.key(task.read({"prompt": each, "answer": 4})) for each in (first, second, "3 + 1?")}
    assert len(keys) == 3


def test_an_unknown_match_is_refused() -> None:
    with pytest.raises(ValueError, match="answer_match: 'fuzzy' is unknown; choose one of exact, numeric, math_verify"):
        task_config(task="prompt_answer", dataset="own.jsonl", answer_match="fuzzy")


# --- GSM8K ------------------------------------------------------------------------------------------------------

SOLUTION = "She has 3 * 4 = <<3*4=12>>12 eggs, and 12 * 100 = <<12*100=1200>>1,200.\n#### 1,200"


@needs_math_verify
def test_gsm8k_is_read_and_scored(tmp_path: Path) -> None:
    path = write(tmp_path / "gsm8k.jsonl", [{"question": "How many eggs? ", "answer": SOLUTION}])
    [example] = read_examples(path, task="gsm8k")
    task = get_task("gsm8k")
    assert task.score(r"It is \boxed{1200}.", example) == (1.0, "correct")
    assert task.score(r"It is \boxed{12}.", example) == (0.0, "wrong-answer")
    assert task.difficulty(example) == "2 steps"
    assert str(task.prompt(example, "base")).count("How many eggs?\n\nReason step by step") == 1
    write(tmp_path / "gsm8k.jsonl", [{"question": "?", "answer": "12"}])
    with pytest.raises(ValueError, match="row 1: answer: '12' does not end in #### and a number"):
        read_examples(path, task="gsm8k")
    write(tmp_path / "gsm8k.jsonl", [{"question": " ", "answer": "#### 12"}])
    with pytest.raises(ValueError, match="row 1: question: ' ' is empty; write one, or remove the row"):
        read_examples(path, task="gsm8k")
    with pytest.raises(ValueError, match="dataset: 'generate', but the task gsm8k brings no generator"):
        load_splits(task_config(task="gsm8k"))


def test_without_math_verify_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "find_spec", lambda name: None)
    asked = "task: 'gsm8k' is scored by a package that is not installed; pip install 'tinyzero-trl\\[math-verify\\]'"
    with pytest.raises(ValueError, match=asked):
        task_config(task="gsm8k", dataset="x.jsonl")
    with pytest.raises(ValueError, match="answer_match: 'math_verify' is scored by a package"):
        task_config(task="prompt_answer", dataset="x.jsonl", answer_match=MATH)


@pytest.mark.parametrize("expected", ["<answer>0</answer>", "a <answer> b", "x</answer>"])
def test_an_exact_answer_with_the_tags_of_answers_is_refused(expected: str) -> None:
    with pytest.raises(ValueError, match="holds a tag by which answers are found; give the text between the tags"):
        check_expected(expected, EXACT)


@needs_math_verify
@pytest.mark.parametrize("expected", ["1e5", "1.5e-3", "-2E10", "$1e5$", "\\boxed{1e5}"])
def test_an_exponent_is_no_mathematics(expected: str) -> None:
    """math-verify reads 1e5 as 1 times e times 5, and would pay for 13.59."""
    with pytest.raises(ValueError, match="has an exponent, which math-verify takes for Euler's number"):
        check_expected(expected, MATH)
    check_expected("2e", MATH)


@pytest.mark.parametrize(
    ("written", "label"), [("NaN", ""), ("null", ""), ("3.0", "3"), ("3", "3"), ("0.5", "0.5"), ('"easy"', "easy")]
)
def test_a_difficulty_is_the_same_label_in_every_spelling(written: str, label: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"prompt": "p", "answer": "a", "difficulty": {written}}}\n')
    [example] = read_examples(str(file), task=get_task("prompt_answer"))
    assert example["difficulty"] == label
