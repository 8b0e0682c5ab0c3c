"""Completions from a coverage-guided fuzzer: no exception, no wrong answer accepted, no right one refused, no delay.

How to run it stands in the README beside this file. One input is a byte that chooses what is checked, and a completion.
"""

import json
import re
import sys
import time
import unicodedata
from contextlib import suppress
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

with atheris.instrument_imports(include=["tinyzero_trl.tasks"]):
    from tinyzero_trl.tasks import countdown, expression, multiplication

from tests.support.arithmetic_oracle import LAST_ANSWER, Refused, is_right, value_and_literals  # noqa: E402

SLOWEST_S = 0.1  # ten times what is promised: an instrumented verdict on a busy machine
DEEPEST = 90  # Python's own parser, which the oracle uses, gives up at 200 open parentheses
LONGEST = expression.MAX_CHARACTERS
LENIENT = str.maketrans({"\u2212": "-", "\u2013": "-", "\u00d7": "*", "\u00f7": "/", "[": "(", "]": ")"})


def check(data: bytes) -> None:
    """One input of the fuzzer."""
    what, completion = data[:1], data[1:].decode("utf-8", errors="surrogateescape")
    answers = LAST_ANSWER.findall(completion)
    answer = answers[-1].strip() if answers else None
    assert countdown.extract_answer(completion) == answer, f"extracted {countdown.extract_answer(completion)!r}"
    if answer is None or len(answer) > LONGEST or _depth(answer) > DEEPEST:
        _judged(countdown.score, completion, [1, 2, 3], 6, None)
        return
    if what < b"\x80":
        _check_expression(completion, answer, shift=what[:1] in (b"1", b"2"))
    else:
        digits = re.fullmatch(r"[+-]?(?:0|[1-9][0-9]*)", answer)
        target = int(answer) if digits and len(answer) < 4000 else 56088
        if target != 0:  # no product is 0, so what "-0" is worth is left open
            is_product = digits is not None and len(answer) < 4000
            _judged(multiplication.score, completion, [1, target], target, is_product)
        _judged(multiplication.score, completion, [1, target + 1], target + 1, False)


def _check_expression(completion: str, answer: str, shift: bool) -> None:
    """Value and literals as the oracle has them, and the verdict on the very numbers that were used."""
    try:
        value, numbers = value_and_literals(answer)
    except (Refused, MemoryError, RecursionError):
        value, numbers = None, [1, 2, 3]
        _check_nothing_lenient(completion, answer)
    if len(numbers) <= 40 and max(numbers) < 10**40:
        try:
            ours = expression.evaluate(expression.parse(answer))
        except expression.ExpressionError:
            ours = None
        assert ours == value, f"{answer!r} is {ours}, the oracle says {value}"
    target = int(value) + shift if value is not None else 6
    _judged(countdown.score, completion, numbers, target, is_right(completion, numbers, target))
    for others in (numbers[1:], [*numbers, 1]):
        _judged(countdown.score, completion, others, target, is_right(completion, others, target))


def _check_nothing_lenient(completion: str, answer: str) -> None:
    """What a more generous reader would make of a refused answer must not be a right one."""
    read = unicodedata.normalize("NFKC", answer).partition("=")[0].translate(LENIENT)
    read = re.sub(r"(?<![0-9])0+(?=[0-9])|(?<=[0-9])[_,](?=[0-9])", "", read.replace("**", "*").replace("//", "/"))
    with suppress(Refused, MemoryError, RecursionError):
        value, numbers = value_and_literals(read)
        _judged(countdown.score, completion, numbers, int(value), False)


def _judged(score, completion: str, numbers: list[int], target: int, right: bool | None) -> None:
    started_s = time.process_time()
    reward, reason = score(completion, numbers, target)
    assert time.process_time() - started_s < SLOWEST_S, f"slow: {len(completion)} characters"
    assert (reward, reason == "correct") in ((1.0, True), (0.0, False)), (reward, reason)
    assert right is None or reward == right, f"{completion!r} from {numbers} for {target}: {reward}, {reason}"


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth, text.count("--"))
    return deepest


def write_seeds(folder: Path) -> None:
    """The completions of the verdict table, once for either task."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = json.loads((ROOT / "tests" / "golden" / "verdicts.json").read_text(encoding="utf-8"))
    for number, row in enumerate(rows):
        completion = row["completion"].encode("utf-8", errors="surrogatepass")
        for choice in (b"0", b"1", b"\xff"):
            (folder / f"verdict_{number:03}_{choice.hex()}").write_bytes(choice + completion)


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        write_seeds(Path(sys.argv[1]))
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
