"""Prompts -> completions with transformers' own `generate`, greedy or sampled, reproducible row by row.

Every row draws from a generator of its own. A completion therefore depends on the model, the prompt and its
seed, and (up to the rounding of a matrix product) neither on its neighbours in the batch nor on the batch's
size or order. Two models that are given the same seeds are compared under common random numbers, which
narrows their difference.
"""

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from tinyzero_trl.generation.compacting import generate_while_any_unfinished

ENGINES = ("auto", "transformers", "vllm")

Prompt = str | Sequence[Mapping[str, str]]
"""Text as the model shall read it, or chat messages ({role, content}) for the model's chat template."""


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


def choose_engine(engine: str) -> str:
    """`transformers` or `vllm`: `auto` takes vLLM where it is installed beside a CUDA device.

    Raises:
        ValueError: if the engine is unknown, or vLLM is asked for and not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: {engine!r} is unknown; use one of {', '.join(ENGINES)}")
    installed = find_spec("vllm") is not None
    if engine == "vllm" and not installed:
        raise ValueError(
            "engine: 'vllm' is not installed; pip install 'tinyzero-trl[vllm]', or use the engine transformers"
        )
    if engine == "auto":
        return "vllm" if installed and torch.cuda.is_available() else "transformers"
    return engine


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
    """One completion per prompt, in the order of the prompts.

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
    return complete_tokens(
        model,
        tokenizer,
        encode_prompts(tokenizer, prompts),
        [derive_seed(seed, index) for index in range(len(prompts))],
        max_completion_length=max_completion_length,
        temperature=temperature,
        batch_size=batch_size,
    )


def complete_tokens(
    model: Any,
    tokenizer: Any,
    prompt_ids: Sequence[list[int]],
    seeds: Sequence[int],
    *,
    max_completion_length: int,
    temperature: float,
    batch_size: int,
) -> list[Completion]:
    """`generate_completions` for prompts that are token ids already, row i sampled with `seeds[i]`."""
    by_length = sorted(range(len(prompt_ids)), key=lambda row: len(prompt_ids[row]))
    ends = end_token_ids(tokenizer, model.generation_config)
    # what follows an end token is cut off, so an end token may serve where there is no padding token
    pad = next((token for token in (tokenizer.pad_token_id, *ends) if token is not None), 0)
    config = GenerationConfig(
        max_new_tokens=max_completion_length, do_sample=False, eos_token_id=ends or None, pad_token_id=pad
    )
    completions: dict[int, Completion] = {}
    with torch.inference_mode(), _generating(model, config):
        for rows in batched(by_length, batch_size):
            inputs = _padded_left([prompt_ids[row] for row in rows], pad, model.device)
            sampler = _RowSampler([seeds[row] for row in rows], temperature, model.device) if temperature > 0 else None
            sequences = generate_while_any_unfinished(  # (B, P + C)
                model, *inputs, generation_config=config, processors_for=sampler.of_rows if sampler else None
            )
            written = sequences[:, inputs[0].size(1) :]
            for row, ids in zip(rows, written.tolist(), strict=True):
                completions[row] = as_completion(ids, ends, tokenizer, max_completion_length)
    return [completions[row] for row in range(len(prompt_ids))]


def encode_prompts(tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of each prompt, as TRL makes them in training; a chat ends where the assistant's turn begins.

    Raises:
        ValueError: if a chat meets a tokenizer without a chat template.
    """
    return [_encode(tokenizer, prompt) for prompt in prompts]


def end_token_ids(tokenizer: Any, generation_config: GenerationConfig) -> list[int]:
    """Every token that ends a completion: the tokenizer's end token and those of the generation settings."""
    configured = generation_config.eos_token_id
    listed = [configured] if isinstance(configured, int) else list(configured or ())
    return list(dict.fromkeys(end for end in (tokenizer.eos_token_id, *listed) if end is not None))


def as_completion(ids: Sequence[int], ends: Sequence[int], tokenizer: Any, max_completion_length: int) -> Completion:
    """Cut generated ids after their first end token; what follows there is padding."""
    length = next((index + 1 for index, token in enumerate(ids) if token in ends), None)
    assert length is not None or len(ids) == max_completion_length, "a row stopped early without an end token"
    kept = tuple(ids[:length])
    return Completion(kept, tokenizer.decode(kept, skip_special_tokens=True), truncated=length is None)


def derive_seed(*parts: int) -> int:
    """A seed in [0, 2^56) that is a fixed, well mixed function of its parts."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest())


def batched(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive lists of `size` items, the last one shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


class _RowSampler(LogitsProcessor):
    """Sampling by the Gumbel-max trick: argmax of logits / temperature + Gumbel noise follows the softmax.

    `generate` then takes the argmax ("greedy"), and the noise of row b comes from that row's generator alone.
    Source: Gumbel, "Statistical theory of extreme values" (1954); Maddison et al., "A* sampling", arXiv
    1411.0030.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device) -> None:
        self._generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]
        self._temperature = temperature

    def of_rows(self, rows: Sequence[int]) -> LogitsProcessorList:
        """The sampler for some of the rows, whose generators it goes on with."""
        part = copy.copy(self)
        part._generators = [self._generators[row] for row in rows]
        return LogitsProcessorList([part])

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (B, V) plus noise."""
        exponential = torch.empty_like(scores)
        for noise, generator in zip(exponential, self._generators, strict=True):
            noise.exponential_(generator=generator)
        # -log of a standard exponential is a standard Gumbel variable
        return scores / self._temperature - exponential.log_()  # type: ignore[return-value]


@contextmanager
def _generating(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Put the model in evaluation mode under `config` alone.

    `generate` fills whatever a configuration leaves open from the model's own one, so that one has to go
    meanwhile.
    """
    own_config, training = model.generation_config, model.training
    model.generation_config = config
    model.eval()
    try:
        yield
    finally:
        model.generation_config = own_config
        model.train(training)


def _encode(tokenizer: Any, prompt: Prompt) -> list[int]:
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    if not tokenizer.chat_template:
        raise ValueError(
            "template: 'chat' needs a tokenizer with a chat template, and the model's has none; use the "
            "template base or qwen-instruct, or another model"
        )
    try:
        return tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=True, return_dict=True)[
            "input_ids"
        ]
    except Exception as error:  # a chat template is a program of the model's author, run in Jinja's sandbox
        raise ValueError(
            f"template: 'chat' fails in the model's own chat template ({' '.join(str(error).split())}); use the "
            "template base or qwen-instruct, or another model"
        ) from error


def _padded_left(prompt_ids: Sequence[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, (B, P) each."""
    width = max(map(len, prompt_ids))
    rows = [[pad] * (width - len(ids)) + ids for ids in prompt_ids]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompt_ids]
    return torch.tensor(rows, device=device), torch.tensor(mask, device=device)
