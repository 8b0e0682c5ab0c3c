"""Completions of chats as turns of the assistant."""

from collections.abc import Sequence
from typing import Any

from trl.chat_template_utils import parse_response

_TEMPLATES = ("response_template", "response_schema")


def takes_turns_apart(tokenizer: Any) -> bool:
    """Whether the tokenizer says how a turn is taken apart, as into reasoning and content."""
    return any(getattr(tokenizer, name, None) is not None for name in _TEMPLATES)


def as_turns(
    tokenizer: Any, prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]], tools: Any = None
) -> list[dict[str, Any]]:
    """One message {role, content, ...} per completion, as TRL hands it to the reward functions in training.

    A prompt is needed besides its completion, since a chat template may begin the turn.
    """
    if takes_turns_apart(tokenizer):
        turns = zip(prompt_ids, completion_ids, strict=True)
        return [parse_response(tokenizer, ids, prefix=prompt, tools=tools) for prompt, ids in turns]
    texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
    return [{"role": "assistant", "content": text} for text in texts]
