"""Completions of chats as turns of the assistant."""

from collections.abc import Sequence
from typing import Any

from trl.chat_template_utils import parse_response

_TEMPLATES = ("response_template", "response_schema")


def as_turns(
    tokenizer: Any, prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]], tools: Any = None
) -> list[dict[str, Any]]:
    """One message {role, content, ...} per completion, as TRL hands it to the reward functions in training.

    Some tokenizers say how a turn is taken apart, as into reasoning and content. The prompt is needed for that, since a
    chat template may begin the turn.
    """
    if any(getattr(tokenizer, name, None) is not None for name in _TEMPLATES):
        turns = zip(prompt_ids, completion_ids, strict=True)
        return [parse_response(tokenizer, ids, prefix=prompt, tools=tools) for prompt, ids in turns]
    texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
    return [{"role": "assistant", "content": text} for text in texts]
