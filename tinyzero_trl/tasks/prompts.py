"""Prompt templates: a task's question inside one of three frames.

Every template is fixed text around the question's values, and the fixed text is made of constants: a
tokenizer may treat each segment as one token. `base` and `qwen-instruct` end inside an opened `<think>`, so
that the completion starts with thought; `chat` leaves the frame to the model's own chat template.
"""

import reprlib
from collections.abc import Sequence
from typing import Any

TEMPLATES = ("base", "qwen-instruct", "chat")

Message = dict[str, str]

_SYSTEM = (
    "You are a careful assistant. You first think the problem through, writing your thoughts between <think> "
    "and </think>, and then give the final answer between <answer> and </answer>."
)
_FRAMES = {
    "base": (
        "The user asks a question and the assistant solves it. The assistant first thinks the problem "
        "through and then gives the final answer.\nUser: ",
        "\nAssistant: I will work through this step by step.\n<think>",
    ),
    "qwen-instruct": (
        f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\nI will work through this step by step.\n<think>",
    ),
}


def format_numbers(numbers: Sequence[int]) -> str:
    """The numbers as every prompt shows them: `[3, 7, 5]`."""
    return f"[{', '.join(map(str, numbers))}]"


def segments(template: str, question: Sequence[str]) -> tuple[str, ...]:
    """The fixed text of a prompt, in order: between each two segments stands one value.

    Args:
        template: `base` or `qwen-instruct`; the frame of `chat` is the model's own.
        question: the fixed text of the question alone, one piece more than it has values.
    """
    before, after = _FRAMES[template]
    pieces = [*question]
    pieces[0] = before + pieces[0]
    pieces[-1] += after
    return tuple(pieces)


def render(template: str, question: Sequence[str], values: Sequence[str]) -> str | list[Message]:
    """A prompt: text for `base` and `qwen-instruct`, a list of {role, content} messages for `chat`.

    Raises:
        ValueError: if `template` is unknown.
    """
    if template not in TEMPLATES:
        raise ValueError(f"template: {template!r} is unknown; use one of {', '.join(TEMPLATES)}")
    if template == "chat":
        return [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": _interleave(question, values)},
        ]
    return _interleave(segments(template, question), values)


def _interleave(fixed: Sequence[str], values: Sequence[str]) -> str:
    assert len(fixed) == len(values) + 1
    return fixed[0] + "".join(value + segment for value, segment in zip(values, fixed[1:], strict=True))


def check_prompt(task: str, prompt: Any) -> None:
    """Raise ValueError unless what a task gives for a prompt is one."""
    turns = prompt if isinstance(prompt, list) and prompt else [None]
    if not isinstance(prompt, str) and not all(isinstance(turn, dict) and "content" in turn for turn in turns):
        raise ValueError(
            f"task: {task} gives the prompt {reprlib.repr(prompt)}; return a text, or a list of messages with role and "
            "content"
        )


def check_key(task: str, key: Any) -> None:
    """Raise ValueError unless what a task gives for the key of an example can be looked up."""
    try:
        hash(key)
    except TypeError:
        raise ValueError(
            f"task: {task} gives the key {reprlib.repr(key)}, which cannot be looked up; return a text, a number or a "
            "tuple of them"
        ) from None
