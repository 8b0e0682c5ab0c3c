"""Completions of a tiny random model: where they end, what they depend on, and that sampling follows the softmax."""

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from tests.support.tiny_models import build_model, build_tokenizer
from tinyzero_trl.generation.completions import Completion, generate_completions
from tinyzero_trl.generation.engine import derive_seed

PROMPTS = ["1", "1 2 3", "4 4 4 4 4 4", "9 8", "7 unknown words 7", "2 2"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture
def model(tokenizer: Any) -> Any:
    return build_model(tokenizer)


def complete(model: Any, tokenizer: Any, **options: Any) -> list[Completion]:
    return generate_completions(model, tokenizer, PROMPTS, **({"max_completion_length": 10} | options))


def test_greedy_takes_the_likeliest_token_at_every_step(model: Any, tokenizer: Any) -> None:
    for prompt, completion in zip(PROMPTS, complete(model, tokenizer), strict=True):
        ids = tokenizer(prompt)["input_ids"]
        for token in completion.token_ids:
            with torch.no_grad():
                assert model(torch.tensor([ids])).logits[0, -1].argmax().item() == token
            ids.append(token)
        assert completion.truncated == (completion.token_ids[-1] != tokenizer.eos_token_id)
        assert completion.text == tokenizer.decode(completion.token_ids, skip_special_tokens=True)


def test_an_end_token_exactly_at_the_limit_is_finished(model: Any, tokenizer: Any) -> None:
    [free] = generate_completions(model, tokenizer, ["9 8"], max_completion_length=30, temperature=1.0, seed=3)
    end = next(token for token in free.token_ids[4:] if token not in free.token_ids[:4])
    position = free.token_ids.index(end)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    for limit, truncated in ((position + 2, False), (position + 1, False), (position, True)):
        [completion] = generate_completions(
            model, tokenizer, ["9 8"], max_completion_length=limit, temperature=1.0, seed=3
        )
        assert completion.truncated is truncated
        assert completion.token_ids == free.token_ids[: min(limit, position + 1)]
        assert completion.length_tokens == min(limit, position + 1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_do_not_depend_on_their_batch(model: Any, tokenizer: Any, temperature: float) -> None:
    one_by_one = complete(model, tokenizer, temperature=temperature, batch_size=1)
    for batch_size in (2, 4, 64):
        assert complete(model, tokenizer, temperature=temperature, batch_size=batch_size) == one_by_one


def test_the_models_own_settings_do_not_count_and_come_back(model: Any, tokenizer: Any) -> None:
    plain = complete(model, tokenizer, temperature=1.0)
    own = GenerationConfig(do_sample=True, top_k=1, temperature=0.01, repetition_penalty=5.0, min_p=0.9, max_length=11)
    own.eos_token_id = tokenizer.eos_token_id
    model.generation_config = own
    model.train()
    assert complete(model, tokenizer, temperature=1.0) == plain
    assert model.generation_config is own and model.training


def test_the_global_random_state_is_left_alone(model: Any, tokenizer: Any) -> None:
    before = torch.get_rng_state()
    first = complete(model, tokenizer, temperature=1.0, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert complete(model, tokenizer, temperature=1.0, seed=5) == first


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampling_follows_the_softmax(model: Any, tokenizer: Any, temperature: float) -> None:
    rows = 4000
    completions = generate_completions(
        model, tokenizer, ["1 2 3"] * rows, max_completion_length=1, temperature=temperature, batch_size=rows
    )
    counts = Counter(completion.token_ids[0] for completion in completions)
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer("1 2 3")["input_ids"]])).logits[0, -1]
    probabilities = (logits / temperature).softmax(-1).tolist()
    for token, probability in enumerate(probabilities):
        deviation = (rows * probability * (1 - probability)) ** 0.5
        assert abs(counts[token] - rows * probability) <= 4.5 * deviation + 1


def test_a_tokenizer_without_padding_token_will_do(model: Any) -> None:
    with_pad, without = build_tokenizer(), build_tokenizer()
    without.pad_token = None
    assert complete(model, without) == complete(model, with_pad)


def test_chat_needs_a_chat_template(model: Any) -> None:
    tokenizer = build_tokenizer()
    chat = [{"role": "user", "content": "1 2 3"}]
    spelled_out = "<|user|> 1 2 3 <|assistant|>"
    [from_chat] = generate_completions(model, tokenizer, [chat], max_completion_length=8)
    [from_text] = generate_completions(model, tokenizer, [spelled_out], max_completion_length=8)
    assert from_chat == from_text
    tokenizer.chat_template = None
    with pytest.raises(
        ValueError, match=r"template: messages need a tokenizer with a chat template.*use another model"
    ):
        generate_completions(model, tokenizer, [chat], max_completion_length=8)


def test_seeds_are_fixed_and_differ() -> None:
    seeds = {derive_seed(seed, problem, sample) for seed in range(5) for problem in range(20) for sample in range(20)}
    assert len(seeds) == 2000
    assert derive_seed(0, 1, 2) == derive_seed(0, 1, 2) != derive_seed(0, 12)
