"""Prompts as the model's token ids."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tinyzero_trl.messages import text_of

Prompt = str | Sequence[Mapping[str, str]]
"""Text as the model shall read it, or chat messages ({role, content}) for the model's chat template."""


def encode_prompts(
    tokenizer: Any, prompts: Sequence[Prompt], chat_template_kwargs: Mapping[str, Any] | None = None
) -> list[list[int]]:
    """Token ids of each prompt, as TRL makes them in training; a chat ends where the assistant's turn begins.

    `chat_template_kwargs` go to the chat template, as those of the training configuration do.

    Raises:
        ValueError: if a chat meets a tokenizer without a chat template.
    """
    return [_encode(tokenizer, prompt, chat_template_kwargs or {}) for prompt in prompts]


def _encode(tokenizer: Any, prompt: Prompt, chat_template_kwargs: Mapping[str, Any]) -> list[int]:
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    if not tokenizer.chat_template:
        raise ValueError(
            "template: messages need a tokenizer with a chat template, and the model's has none; use another model, or "
            "a template that makes text of them (base or qwen-instruct, where the data have no messages)"
        )
    try:
        return tokenizer.apply_chat_template(
            list(prompt), add_generation_prompt=True, tokenize=True, return_dict=True, **chat_template_kwargs
        )["input_ids"]
    except Exception as error:  # a chat template is a program of the model's author, run in Jinja's sandbox
        raise ValueError(
            f"template: the model's own chat template refuses the messages ({text_of(error)}); use another model, "
            "or a template that makes text of them (base or qwen-instruct, where the data have no messages)"
        ) from error


def padded_left(prompt_ids: Sequence[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, (B, P) each."""
    width = max(map(len, prompt_ids))
    rows = [[pad] * (width - len(ids)) + ids for ids in prompt_ids]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_ids]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)
