"""Completions as text, or as turns of a chat, from any engine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trl.chat_template_utils import parse_response

from tinyzero_trl.generation.engine import Engine, EngineSetup, Sampling, derive_seed
from tinyzero_trl.generation.prompts import Prompt, encode_prompts
from tinyzero_trl.generation.sampling import end_token_ids, padding_token_id
from tinyzero_trl.generation.stages import sample
from tinyzero_trl.generation.transformers_engine import TransformersEngine

_TEMPLATES = ("response_template", "response_schema")


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote after a prompt.

    `token_ids` run up to and including the end token; `text` is the same without special tokens. `truncated`
    means that no end token came within the limit: an end token exactly at the limit is a finished completion.
    """

    token_ids: tuple[int, ...]
    text: str
    truncated: bool

    @property
    def length_tokens(self) -> int:
        """Tokens written, the end token included."""
        return len(self.token_ids)


def complete(engine: Engine, prompt_ids: Sequence[list[int]], sampling: Sampling, limit: int) -> list[Completion]:
    """One completion per prompt, of `limit` tokens at most.

    Raises:
        ValueError: the engine does not return what it must.
    """
    batch = sample(engine, prompt_ids, sampling, limit)
    return [
        Completion(tuple(ids), engine.setup.tokenizer.decode(ids, skip_special_tokens=True), truncated=not finished)
        for ids, finished in zip(batch.completion_ids, batch.finished, strict=True)
    ]


def generate_completions(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    max_completion_length: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
) -> list[Completion]:
    """One completion per prompt, in the order of the prompts, by Transformers' `generate`.

    Prompts are batched by length, so that little is padded. The global random state, the model's mode and its
    generation settings are the same afterwards; of the latter only the end tokens are used, so that a
    checkpoint's own top-k or repetition penalty does not decide what is measured.

    Args:
        model: a causal language model of transformers, on the device where it shall run.
        tokenizer: its tokenizer; the prompts are padded on the left, whichever side it prefers.
        prompts: texts, or chats for the tokenizer's chat template.
        max_completion_length: most tokens that a completion may have.
        temperature: 0.0 takes the likeliest token, anything above samples from the full distribution.
        seed: prompt i is sampled with a generator seeded from `seed` and i.
        batch_size: rows that are generated side by side.

    Raises:
        ValueError: if a chat meets a tokenizer without a chat template.
    """
    prompt_ids = encode_prompts(tokenizer, prompts)
    engine = TransformersEngine(EngineSetup(tokenizer, model.name_or_path, model=model, batch_size=batch_size))
    ends = end_token_ids(tokenizer, model.generation_config)
    sampling = Sampling(temperature=temperature, end_token_ids=ends, pad_token_id=padding_token_id(tokenizer, ends))
    by_length = sorted(range(len(prompt_ids)), key=lambda row: len(prompt_ids[row]))
    completions: dict[int, Completion] = {}
    for rows in batched(by_length, batch_size):
        seeded = replace(sampling, seeds=tuple(derive_seed(seed, row) for row in rows))
        written = complete(engine, [prompt_ids[row] for row in rows], seeded, max_completion_length)
        completions |= dict(zip(rows, written, strict=True))
    return [completions[row] for row in range(len(prompts))]


def batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive sequences of `size` items, the last one shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


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
