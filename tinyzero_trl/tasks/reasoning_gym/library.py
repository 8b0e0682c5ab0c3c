"""What is asked of the library: its data sets, their scorers, and what must be known of them.

The lists below were made by reading version 0.1.25; `tests/unit/test_reasoning_gym.py` reads the installed one anew.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from functools import lru_cache
from typing import Any

from tinyzero_trl.messages import shortened, text_of
from tinyzero_trl.tasks.registry import default_of

EVALUATES_COMPLETIONS = {
    "binary_matrix": "eval()",
    "n_queens": "eval()",
    "spiral_matrix": "eval()",
    "string_insertion": "eval()",
    "countdown": "sympy.parse_expr()",
    "intermediate_integration": "sympy.parse_expr()",
    "polynomial_multiplication": "sympy.parse_expr()",
    "puzzle24": "sympy.parse_expr()",
    "simple_integration": "sympy.parse_expr()",
}
"""Data sets whose scorer hands what a model wrote to a function that runs it as Python."""

EVALUATES_ROWS = {"bitwise_arithmetic": "eval()", "number_sorting": "eval()"}
"""Data sets whose scorer does so with the problem or its answer, which is safe unless they come from a file."""

DEPENDS_ON_HASHES = {
    *("intermediate_integration", "isomorphic_strings", "knight_swap", "polynomial_multiplication"),
    *("ransom_note", "word_ladder"),
}
"""Data sets that walk through sets of texts, so that each process has other examples for the same seed."""

_FOR_DRAWING_ALONE = {"count_primes": {"min_n", "max_n"}, "spell_backward": {"data_file"}}
"""Options that scorers do not read. By those of a row in a file, the library would sieve for ever, or read any file."""

NOT_OFFERED = {
    "composite": "mixes other data sets; name one of them",
    "game_of_life_halting": "has a scorer that gives every answer 1 (it compares bool() of two texts); choose another",
}


def data_sets() -> dict[str, tuple[Any, Any]]:
    """The library's data sets by name: their class, and the class of their configuration.

    Raises:
        ValueError: the library is not installed.
    """
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise ValueError(
            "task: reasoning_gym needs a package that is not installed; pip install 'tinyzero-trl[reasoning-gym]'"
        ) from None
    return {name: kinds for name, kinds in DATASETS.items() if name not in NOT_OFFERED}


def check_name(family: str, name: str) -> None:
    """Raise ValueError unless the library has a data set of this name."""
    known = data_sets()
    if name in NOT_OFFERED:
        raise ValueError(f"task: '{family}:{name}' {NOT_OFFERED[name]}")
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {family}:{close[0]}?" if close else f"use one of {', '.join(sorted(known))}"
        raise ValueError(f"task: '{family}:{name}' is no data set of reasoning-gym; {remedy}")


def make(name: str, *, seed: int, size: int, **options: Any) -> Any:
    """A data set of the library, a sequence of entries. Members of an Enum are given by their value.

    Raises:
        ValueError: options that the library refuses.
    """
    kind, config = data_sets()[name]
    defaults = {each.name: default_of(each) for each in fields(config)}
    try:
        given = {option: _in_kind_of(defaults.get(option), value) for option, value in options.items()}
        chosen = config(seed=seed, size=size, **given)
        if hasattr(chosen, "validate"):
            chosen.validate()
        return kind(config=chosen)
    except Exception as error:  # a bare assertion, most often
        raise refusal(name, options, error) from None


def refusal(name: str, options: Mapping[str, Any], error: Exception) -> ValueError:
    """What the library has raised, with the options that it was given."""
    given = ", ".join(f"{option}: {value!r}" for option, value in options.items()) or "its defaults"
    return ValueError(f"task: reasoning_gym:{name} refuses {given} ({text_of(error)}); change them")


def _in_kind_of(default: Any, value: Any) -> Any:
    """A plain value as the configuration declares it, which its default shows.

    Raises:
        ValueError: no member of the Enum has this value.
    """
    if isinstance(default, Enum):
        return type(default)(value)
    if isinstance(default, list) and isinstance(value, list) and default and isinstance(default[0], Enum):
        return [_in_kind_of(default[0], each) for each in value]
    return value


@lru_cache(maxsize=16)
def scorer(name: str, options: str) -> Any:
    """A data set that is asked for its `score_answer` alone; `options` are JSON.

    Raises:
        ValueError: options that the library refuses.
        TypeError: options that are no mapping of names to values.
    """
    given = dict(from_plain(json.loads(options)))
    unread = _FOR_DRAWING_ALONE.get(name, set())
    return make(name, seed=0, size=1, **{option: value for option, value in given.items() if option not in unread})


def to_plain(value: Any) -> Any:
    """A value of the library as JSON values; `from_plain` gives back its tuples and its keys that are no text.

    A member of an Enum becomes its value. `make` makes members of options again.
    """
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, tuple):
        return {"(tuple)": [to_plain(each) for each in value]}
    if isinstance(value, list):
        return [to_plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((to_plain(each) for each in value), key=repr)
    if isinstance(value, dict) and all(type(name) is str for name in value):
        return {name: to_plain(each) for name, each in value.items()}
    if isinstance(value, dict):
        return {"(items)": [[to_plain(name), to_plain(each)] for name, each in value.items()]}
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()  # a number of NumPy's
    return value if type(value) in (str, int, float, bool, type(None)) else str(value)


def from_plain(value: Any) -> Any:
    """What `to_plain` was given.

    Raises:
        ValueError: `to_plain` gives no such value; a file may hold anything.
    """
    try:
        return _from_plain(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata: {shortened(value)} was not written by this program ({error})") from None


def _from_plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"(tuple)"}:
        return tuple(map(_from_plain, value["(tuple)"]))
    if value.keys() == {"(items)"}:
        return {_from_plain(name): _from_plain(each) for name, each in value["(items)"]}
    return {name: _from_plain(each) for name, each in value.items()}
