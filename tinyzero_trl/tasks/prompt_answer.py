"""Data of a user's own: a prompt and its right answer in each row."""

import json
import re
import reprlib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from math import isfinite
from typing import Any, ClassVar

from tinyzero_trl.runs.json_lines import is_finite_number
from tinyzero_trl.tasks import prompts
from tinyzero_trl.tasks.matching import EXACT, FORMS, MATCHES, MATH, check_expected, check_math_verify, match
from tinyzero_trl.tasks.registry import register_task
from tinyzero_trl.tasks.task import Example, Score, Task

PLAIN = "plain"
"""The template that leaves a prompt as it is."""

_ROLES = ("system", "user", "assistant")
_WRITTEN_MESSAGES = re.compile(r"\s*\[\s*\{.*\}\s*\]\s*", re.DOTALL)
_WRITTEN_PARTS = (rf"""["']role["']\s*:\s*["'](?:{"|".join(_ROLES)})["']""", r"""["']content["']\s*:""")


@dataclass
class PromptAnswerOptions:
    """How answers are compared, and what prompts say of them."""

    answer_match: str = field(default=EXACT, metadata={"help": "exact, numeric or math_verify"})
    instruction: str | None = field(
        default=None,
        metadata={"help": "text after each prompt; by default it says how to write an answer; empty: none"},
    )

    def __post_init__(self) -> None:
        """Check the name, and whether math-verify is there."""
        if self.answer_match not in MATCHES:
            raise ValueError(f"answer_match: {self.answer_match!r} is unknown; choose one of {', '.join(MATCHES)}")
        if self.answer_match == MATH:
            check_math_verify(f"answer_match: {self.answer_match!r}")


@register_task("prompt_answer")
class PromptAnswer(Task):
    """Answer the prompts of your own data."""

    columns: ClassVar[Mapping[str, type]] = {"prompt": str, "conversation": list, "answer": str, "difficulty": str}
    templates: ClassVar[tuple[str, ...]] = (*prompts.TEMPLATES, PLAIN)
    options = PromptAnswerOptions

    def question(self, example: Example) -> str:
        """The prompt of the row, and the instruction."""
        given = self.settings.instruction
        instruction = FORMS[self.settings.answer_match] if given is None else given
        return f"{example['prompt'].rstrip()}\n\n{instruction}" if instruction else str(example["prompt"])

    def prompt(self, example: Example, template: str) -> str | list[prompts.Message]:
        """The question in a frame, or by itself; of a conversation, its messages, for the model's chat template."""
        if conversation := example["conversation"]:
            if template not in ("chat", PLAIN):
                raise ValueError(
                    f"prompt_template: {template!r} is for prompts that are text, and this one is a list of messages; "
                    f"use chat or {PLAIN}"
                )
            return [*conversation[:-1], {"role": "user", "content": self.question(example)}]
        return self.question(example) if template == PLAIN else super().prompt(example, template)

    def key(self, example: Example) -> Hashable:
        """Of a conversation all its messages: two examples may differ in an earlier one."""
        return json.dumps(example["conversation"]) if example["conversation"] else super().key(example)

    def score(self, completion: str, example: Example) -> Score:
        """Compare with the row's answer, as `answer_match` says."""
        return match(completion, example["answer"], self.settings.answer_match)

    def difficulty(self, example: Example) -> str:
        """The row's own label."""
        return str(example["difficulty"])

    def source_columns(self, present: Iterable[str]) -> list[str]:
        """Prompt and answer, and the difficulty where there is one."""
        present = set(present)
        for name in ("prompt", "answer"):
            if name not in present:
                raise ValueError(f"needs the columns prompt and answer; has {sorted(present)}")
        return [name for name in ("prompt", "answer", "difficulty") if name in present]

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row; its prompt is text or a list of messages, and an answer and a difficulty may be numbers.

        Raises:
            ValueError: a prompt that is neither, empty, or messages as text; or an answer that nothing could match.
        """
        prompt, answer, difficulty = row.get("prompt"), row.get("answer"), row.get("difficulty")
        conversation = _messages(prompt) if isinstance(prompt, list) else []
        if not isinstance(prompt, str | list):
            raise ValueError(f"prompt: {reprlib.repr(prompt)} must be text or a list of messages")
        if isinstance(prompt, str) and _is_written_messages(prompt):
            raise ValueError(
                f"prompt: {reprlib.repr(prompt)} is a list of messages written as text; give the list itself, in a "
                "JSON-lines or parquet file"
            )
        asked = conversation[-1]["content"] if isinstance(prompt, list) else prompt
        if not asked.strip():
            raise ValueError(f"prompt: {asked!r} is empty; write one, or remove the row")
        expected = _as_text(answer, self.settings.answer_match)
        check_expected(expected, self.settings.answer_match)
        return {
            "prompt": asked,
            "conversation": conversation,
            "answer": expected,
            "difficulty": _as_label(difficulty),
        }


def _as_label(difficulty: Any) -> str:
    """A difficulty in words; pandas makes floats of whole numbers beside missing ones, which are not a number there.

    Raises:
        ValueError: a list or a mapping.
    """
    if isinstance(difficulty, list | dict):
        raise ValueError(f"difficulty: {reprlib.repr(difficulty)} must be a number or text; give one, or leave it out")
    if isinstance(difficulty, float):
        difficulty = int(difficulty) if difficulty.is_integer() else difficulty if isfinite(difficulty) else None
    return "" if difficulty is None else str(difficulty)


def _as_text(answer: Any, how: str) -> str:
    """An answer as it is compared; a number without an exponent, which math-verify takes for Euler's number.

    Raises:
        ValueError: neither text nor a finite number, or a number that has several spellings where spellings count.
    """
    if isinstance(answer, str):
        return answer
    if answer is None or answer != answer:  # pandas has NaN for what is missing
        raise ValueError(f"answer: {answer!r} is no answer; give one, or remove the row")
    if isinstance(answer, bool) or not is_finite_number(answer):
        raise ValueError(
            f"answer: {reprlib.repr(answer)} must be text or a number that a float can hold; write it as text"
        )
    if how == EXACT and isinstance(answer, float) and answer.is_integer():
        raise ValueError(
            f"answer: {answer!r} is no text, and the answer {answer:.0f} would be wrong; give text or a whole number, "
            "or set answer_match to numeric"
        )
    return format(Decimal(str(answer)), "f")


def _is_written_messages(prompt: str) -> bool:
    """Whether a text is nothing but messages, as JSON or as Python or NumPy prints them."""
    return _WRITTEN_MESSAGES.fullmatch(prompt) is not None and all(re.search(part, prompt) for part in _WRITTEN_PARTS)


def _messages(given: list[Any]) -> list[prompts.Message]:
    """Messages of a conversation that the model goes on with, as TRL takes them.

    Raises:
        ValueError: not a list of messages with role and content, or the last one is not the user's.
    """
    for message in given:
        role, content = (message.get(name) if isinstance(message, Mapping) else None for name in ("role", "content"))
        if role not in _ROLES or not isinstance(content, str):
            raise ValueError(
                f"prompt: {reprlib.repr(message)} must be a message, with a role ({', '.join(_ROLES)}) and a content "
                "that is text"
            )
    if not given or given[-1]["role"] != "user":
        raise ValueError("prompt: a list of messages must end with one of the user's; leave the answer to the model")
    return [{"role": message["role"], "content": message["content"]} for message in given]
