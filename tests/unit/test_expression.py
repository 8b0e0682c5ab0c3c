"""Exact arithmetic on untrusted text."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.arithmetic_oracle import Refused, value_and_literals
from tinyzero_trl.tasks.arithmetic.expression import MAX_CHARACTERS, ExpressionError, evaluate, literals, parse

TOKENS = ["1", "2", "7", "10", "99", "0", "00", "07", "+", "-", "*", "/", "(", ")", " ", "\n", "**", "//"]


def value_or_reason(text):
    try:
        postfix = parse(text)
        return evaluate(postfix), sorted(int(literal) for literal in literals(postfix))
    except ExpressionError as error:
        return error.reason


@st.composite
def expressions(draw):
    """Text of the grammar, nested at most a few levels deep."""
    leaves = st.integers(0, 999).map(str)
    return draw(
        st.recursive(
            leaves,
            lambda inner: st.one_of(
                st.tuples(inner, st.sampled_from([" + ", "-", "*", " /\n"]), inner).map("".join),
                inner.map("({})".format),
                inner.map("-{}".format),
                inner.map("+ {}".format),
            ),
            max_leaves=8,
        )
    )


@settings(max_examples=150, deadline=None)
@given(expressions())
def test_values_agree_with_python_s_parser(text):
    try:
        value, used = value_and_literals(text)
    except Refused:
        assert value_or_reason(text) == "division-by-zero"
    else:
        assert value_or_reason(text) == (value, sorted(used))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=9).map("".join))
@example("2(3)")
@example("(1)(2)")
@example("1)+(2")
@example("- -+1")
@example("1 0")
def test_token_soup_is_accepted_exactly_where_python_accepts_it(text):
    try:
        value, used = value_and_literals(text)
    except Refused:
        assert isinstance(value_or_reason(text), str)
    else:
        assert value_or_reason(text) == (value, sorted(used))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40))
def test_any_text_has_a_value_or_a_reason(text):
    outcome = value_or_reason(text)
    assert isinstance(outcome, str | tuple)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("2**3", "power-operator"),
        ("7//2", "floor-division"),
        ("3.5*2", "decimal-number"),
        ("1+2=3", "equals-sign"),
        ("1_0", "underscore"),
        ("1 + x", "unknown-character"),
        ("\u0663+1", "unknown-character"),
        ("6 \u00d7 7", "unknown-character"),
        ("1\u00a0+ 2", "unknown-character"),
        ("1e3", "unknown-character"),
        ("0x10", "unknown-character"),
        ("07", "leading-zero"),
        ("1+00", "leading-zero"),
        ("2(3)", "missing-operator"),
        ("1 2", "missing-operator"),
        ("* 2", "missing-operand"),
        ("2 * / 3", "missing-operand"),
        ("2 * * 3", "missing-operand"),
        ("()", "missing-operand"),
        ("1 -", "missing-operand"),
        ("(1", "unbalanced-parenthesis"),
        ("1)", "unbalanced-parenthesis"),
        ("1/(2-2)", "division-by-zero"),
        ("1" * (MAX_CHARACTERS + 1), "too-long"),
    ],
)
def test_refusals_name_their_reason(text, reason):
    assert value_or_reason(text) == reason


def test_nesting_is_bounded_by_length_alone():
    depth = (MAX_CHARACTERS - 1) // 2
    assert value_or_reason("(" * depth + "7" + ")" * depth) == (7, [7])
    assert value_or_reason("-" * (MAX_CHARACTERS - 1) + "7") == (-7, [7])
    assert value_or_reason("(" * MAX_CHARACTERS) == "missing-operand"


def test_zero_stands_without_a_leading_zero_in_larger_numbers():
    assert value_or_reason("100 + 0") == (100, [0, 100])
