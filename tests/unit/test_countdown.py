"""Countdown: generator, solver, prompts and verdict."""

import time
from collections import Counter
from fractions import Fraction

import pytest
from countdown_solver import find_expression
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.support.arithmetic_oracle import LAST_ANSWER, is_right, values_by_pairs
from tinyzero_trl.tasks import Problem, countdown, get_task, prompts
from tinyzero_trl.tasks.arithmetic.solver import natural_values

small_numbers = st.lists(st.integers(1, 12), min_size=1, max_size=3)


@st.composite
def answers(draw):
    """An expression over some numbers, those numbers with at most one slip, and a target mostly hit."""
    numbers = draw(st.lists(st.integers(1, 30), min_size=2, max_size=4))
    text, value = str(numbers[0]), Fraction(numbers[0])
    for number in numbers[1:]:
        operator = draw(st.sampled_from("+-*/"))
        sign = draw(st.sampled_from(["", "-", " - ", "+"]))
        operand = -Fraction(number) if "-" in sign else Fraction(number)
        value = {"+": value + operand, "-": value - operand, "*": value * operand, "/": value / operand}[operator]
        text = draw(st.sampled_from(["({} {} {})", "\n({}){}{} "])).format(text, operator, f"{sign}{number}")
    given_numbers = draw(st.permutations(numbers))
    if draw(st.booleans()) and draw(st.booleans()):
        given_numbers = draw(st.sampled_from([given_numbers[1:], [*given_numbers, 1], [31, *given_numbers[1:]]]))
    target = draw(st.sampled_from([int(value), int(value), int(value) + 1]))
    return text, given_numbers, target


# verdict


@settings(max_examples=150, deadline=None)
@given(answers(), st.sampled_from(["{}", "thought</think>\n<answer>1</answer><answer> {} </answer>\nDone."]))
def test_no_wrong_answer_is_accepted_and_no_right_one_refused(answer, frame):
    text, numbers, target = answer
    completion = frame.format(f"<answer>{text}</answer>" if frame == "{}" else text)
    reward, reason = countdown.score(completion, numbers, target)
    assert reward == float(is_right(completion, numbers, target))
    assert (reason == "correct") == (reward == 1.0)


FRAGMENTS = [
    "<answer>",
    "</answer>",
    "<answer",
    "answer>",
    "<think>",
    "1",
    "2",
    "3",
    "(",
    ")",
    "+",
    "*",
    "-",
    "/",
    "=",
    " ",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join))
@example("<answer>1+2</answer></answer>")
@example("<answer>9<answer>1+2</answer>")
@example("<answer>1+2</answer><answer>4")
@example("</answer>1+2<answer>")
def test_extraction_agrees_with_the_oracle_on_broken_tags(completion):
    assert countdown.score(completion, [1, 2], 3).reward == float(is_right(completion, [1, 2], 3))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60).map("<answer>{}</answer>".format) | st.text(max_size=60))
@example("\ud800<answer>\udfff</answer>")
@example("<answer>\x00</answer>")
def test_every_text_gets_a_verdict(completion):
    assert countdown.score(completion, [1, 2, 3], 6).reward in (0.0, 1.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*FRAGMENTS, "\n", "\u2003", "\x85"]), max_size=14).map("".join))
@example("<answer>1<answer>2</answer>3</answer>")
def test_the_answer_is_the_last_closed_one(completion):
    closed = LAST_ANSWER.findall(completion)
    assert countdown.extract_answer(completion) == (closed[-1].strip() if closed else None)


@settings(max_examples=60, deadline=None)
@given(answers(), st.integers(1, 1900))
def test_parentheses_around_an_answer_change_no_verdict(answer, depth):
    text, numbers, target = answer
    nested = f"<answer>{'(' * depth}{text}{')' * depth}</answer>"
    expected = is_right(f"<answer>{text}</answer>", numbers, target)
    assert countdown.score(nested, numbers, target).reward == float(expected)


@pytest.mark.parametrize(
    "answer",
    [
        "\u0661+\u0662",
        "\uff11\uff0b\uff12",
        "1+\u00b2",
        "1\u22122+4",
        "1\u20622",
        "1\u00d73",
        "\u2160+\u2161",
        "1+2\u200b",
        "0x1+2",
    ],
    ids=ascii,
)
def test_only_ascii_arithmetic_is_read(answer):
    for numbers, target in (([1, 2], 3), ([1, 2, 4], 3), ([1, 2], 2), ([1, 3], 3)):
        assert countdown.score(f"<answer>{answer}</answer>", numbers, target).reward == 0.0


def test_arithmetic_is_exact_at_the_largest_numbers():
    largest = 10**18
    for off in (-1, 0, 1):
        verdict = countdown.score(f"<answer>{largest} / 3 * 3</answer>", [largest, 3, 3], largest + off)
        assert verdict.reward == float(off == 0)


MEGABYTE = 1_000_000
HOSTILE = {
    "opened tags": "<answer>" * (MEGABYTE // 8),
    "closed tags": "</answer>" * (MEGABYTE // 9),
    "half tags": "</answer" * (MEGABYTE // 8),
    "empty answers": "<answer></answer>" * (MEGABYTE // 17),
    "parentheses": "<answer>" + "(" * MEGABYTE + "</answer>",
    "parentheses, as many as are read": "<answer>" + "(" * 4096 + "</answer>",
    "closed parentheses": "<answer>" + "(" * 2047 + "1" + ")" * 2047 + "</answer>",
    "signs": "<answer>" + "-" * 4095 + "1</answer>",
    "divisions": "<answer>" + "1/" * 2047 + "1</answer>",
    "digits": "<answer>" + "9" * MEGABYTE + "</answer>",
    "digits, as many as are read": "<answer>" + "9" * 4096 + "</answer>",
    "tower": "<answer>9**9**9**9</answer>",
    "products": "<answer>" + "99*" * 1365 + "9</answer>",
    "whitespace": "<answer>" + " \n" * (MEGABYTE // 2) + "1+2</answer>",
    "wide characters": "<answer>" + "\U0001f600" * MEGABYTE + "</answer>",
    "words": "so 1+2 is 3, " * (MEGABYTE // 13),
}


@pytest.mark.parametrize("completion", HOSTILE.values(), ids=HOSTILE)
def test_hostile_completions_are_judged_quickly(completion):
    best_s = min(_timed(lambda: countdown.score(completion, [1, 2], 3))[0] for _ in range(3))
    assert best_s < 0.03, "three times the promised 10 ms: a loaded machine is slow, a quadratic scan is slower"


def test_leading_whitespace_does_not_cost_the_answer():
    assert countdown.score(HOSTILE["whitespace"], [1, 2], 3).reason == "correct"


def test_ordinary_verdicts_are_quick():
    completion = "<think>" + "7 - 3 = 4, no. " * 30 + "</think>\n<answer>(44 - 19) * 35 / 5</answer>"
    best_s = min(
        _timed(lambda: [countdown.score(completion, [44, 19, 35, 5], 175) for _ in range(500)])[0] for _ in range(3)
    )
    assert countdown.score(completion, [44, 19, 35, 5], 175).reason == "correct"
    assert 500 / best_s > 5_000, "a quarter of the promised 20,000 a second, for loaded machines"


def _timed(call):
    start_s = time.perf_counter()
    result = call()
    return time.perf_counter() - start_s, result


# solver


@settings(max_examples=80, deadline=None)
@given(small_numbers, st.integers(-40, 60))
@example([3], -3)
@example([2, 3], -6)
def test_the_solver_is_exact_and_complete(numbers, target):
    expression = find_expression(numbers, target)
    reachable = values_by_pairs(numbers, natural=False)
    assert (expression is not None) == (target in reachable or -target in reachable)
    if expression is not None:
        assert countdown.score(f"<answer>{expression}</answer>", numbers, target).reason == "correct"


def test_the_solver_uses_fractions_where_nothing_else_helps():
    assert find_expression([3, 3, 8, 8], 24) == "8 / (3 - 8 / 3)"
    assert 24 not in natural_values([3, 3, 8, 8])


def test_the_solver_says_no():
    assert find_expression([1, 1, 1, 1], 100) is None
    assert find_expression([], 0) is None


@settings(max_examples=60, deadline=None)
@given(small_numbers)
def test_natural_values_are_what_natural_arithmetic_reaches(numbers):
    assert set(natural_values(numbers)) == values_by_pairs(numbers, natural=True)


# generator


def test_problems_keep_to_the_request():
    problems = countdown.generate(401, seed=7)
    assert Counter(map(countdown.difficulty, problems)) == {3: 201, 4: 200}
    assert len({problem.key for problem in problems}) == 401
    for problem in problems:
        assert all(1 <= number <= 99 for number in problem.numbers)
        assert 10 <= problem.target <= 100
    for problem in problems[:40]:
        assert problem.target in values_by_pairs(list(problem.numbers), natural=True)
    ascending = sum(problem.numbers == problem.key[0] for problem in problems)
    assert ascending < 100, "numbers come in random order"
    assert len(set(map(countdown.difficulty, problems[:20]))) == 2, "operand counts are mixed"


def test_the_seed_alone_decides():
    assert countdown.generate(50, seed=3) == countdown.generate(50, seed=3)
    assert countdown.generate(50, seed=3) != countdown.generate(50, seed=4)


@pytest.mark.parametrize(
    ("max_number", "count"),
    [pytest.param(14, 60, id="listed"), pytest.param(18, 60, id="drawn")],
)
def test_every_problem_is_equally_likely(max_number, count):
    """Both ways of sampling, against the whole space: mean and spread of targets, and repeated numbers."""
    space = [
        (numbers, target)
        for numbers in _multisets(max_number)
        for target in natural_values(numbers)
        if 10 <= target <= 100
    ]
    sample = [
        problem.key
        for seed in range(50)
        for problem in countdown.generate(count, seed=seed, operands=[3], max_number=max_number)
    ]
    assert set(sample) <= set(space)
    for feature in (
        lambda key: key[1] < 20,
        lambda key: key[1] > 60,
        lambda key: len(set(key[0])) < 3,
        lambda key: 1 in key[0],
        lambda key: max(key[0]) == max_number,
    ):
        expected = sum(map(feature, space)) / len(space)
        observed = sum(map(feature, sample)) / len(sample)
        deviation = (expected * (1 - expected) / len(sample)) ** 0.5
        assert abs(observed - expected) < 5 * deviation


def _multisets(max_number):
    numbers = range(1, max_number + 1)
    return [(a, b, c) for a in numbers for b in numbers if a <= b for c in numbers if b <= c]


def test_a_small_space_can_be_taken_whole_but_not_exceeded():
    options = {"operands": [3], "max_number": 6, "max_target": 30}
    with pytest.raises(ValueError, match=r"count: 100000 .* only \d+ could be found; ask for fewer") as refusal:
        countdown.generate(100_000, seed=0, **options)
    size = int(str(refusal.value).split("only ")[1].split()[0])
    everything = countdown.generate(size, seed=0, **options)
    assert len({problem.key for problem in everything}) == size
    excluded = {problem.key for problem in everything[: size // 2]}
    rest = countdown.generate(size - size // 2, seed=1, exclude=excluded, **options)
    assert {problem.key for problem in rest} == {problem.key for problem in everything} - excluded


def test_a_range_with_next_to_nothing_in_it_ends_with_an_error():
    with pytest.raises(ValueError, match="only 0 could be found"):
        countdown.generate(3, seed=0, operands=[2], min_number=1000, max_number=2000, min_target=1001, max_target=1003)


def test_exclusion_holds_where_problems_are_drawn():
    first = countdown.generate(200, seed=0, operands=[3])
    second = countdown.generate(200, seed=0, operands=[3], exclude={problem.key for problem in first})
    assert not {problem.key for problem in first} & {problem.key for problem in second}


def test_progress_adds_up():
    steps = []
    countdown.generate(1300, seed=0, operands=[3], max_number=30, progress=steps.append)
    assert sum(steps) == 1300
    assert len(steps) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": -1}, "count: -1 is negative"),
        ({"seed": -1}, "seed: -1 is negative"),
        ({"operands": []}, r"operands: \[\] must be"),
        ({"operands": [3, 3]}, r"operands: \[3, 3\] must be"),
        ({"operands": [7]}, r"operands: \[7\] must be"),
        ({"min_number": 0}, "min_number, max_number: 0, 99"),
        ({"min_number": 9, "max_number": 8}, "min_number, max_number: 9, 8"),
        ({"min_target": 11, "max_target": 10}, "min_target, max_target: 11, 10"),
    ],
)
def test_bad_requests_name_field_and_value(options, message):
    with pytest.raises(ValueError, match=message):
        countdown.generate(**{"count": 1, "seed": 0, **options})


# prompts

PROBLEM = Problem((3, 7, 5), 22)


def test_base_prompts_are_fixed_segments_around_two_values():
    first, second, third = prompts.segments("base", countdown.QUESTION)
    assert countdown.render_prompt(PROBLEM, "base") == f"{first}[3, 7, 5]{second}22{third}"


@pytest.mark.parametrize("template", ["base", "qwen-instruct"])
def test_text_prompts_open_a_thought_and_name_every_tag(template):
    prompt = countdown.render_prompt(PROBLEM, template)
    assert prompt.endswith("<think>")
    assert all(tag in prompt for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    assert "[3, 7, 5]" in prompt
    assert " 22" in prompt


def test_chat_prompts_are_messages():
    messages = countdown.render_prompt(PROBLEM, "chat")
    assert isinstance(messages, list)
    system, user = messages
    assert (system["role"], user["role"]) == ("system", "user")
    assert "[3, 7, 5]" in user["content"]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="template: 'bare' is unknown; use one of base, qwen-instruct"):
        countdown.render_prompt(PROBLEM, "bare")
    with pytest.raises(ValueError, match="task: 'sudoku' is unknown; use one of addition, countdown, multiplication"):
        get_task("sudoku")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 10**18), min_size=2, max_size=16), st.integers(-(10**18), 10**18))
def test_good_rows_become_problems(numbers, target):
    assert countdown.to_problem(numbers, target) == Problem(tuple(numbers), target)


@settings(max_examples=200, deadline=None)
@given(
    st.none() | st.text() | st.lists(st.none() | st.integers(-5, 0) | st.floats() | st.booleans(), max_size=20),
    st.integers(),
)
def test_other_rows_are_refused_by_field(numbers, target):
    assume(numbers is None or isinstance(numbers, str) or len(numbers) < 21)
    with pytest.raises(ValueError, match=r"^nums: "):
        countdown.to_problem(numbers, target)


@pytest.mark.parametrize("target", [None, 3.0, "3", True, 10**19])
def test_targets_are_integers_of_bounded_size(target):
    with pytest.raises(ValueError, match=r"^target: "):
        countdown.to_problem([1, 2], target)
