"""A decoding step copies no cache, and computes what Transformers' own attention and cache do."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer

from tests.support.tiny_models import build_model, build_tokenizer
from tinyzero_trl.generation.cache import (
    GROUPED_DECODING,
    PADDED_DECODING,
    PREALLOCATED_TOKENS,
    PreallocatedLayer,
    decoding_attention,
    preallocated_cache,
)
from tinyzero_trl.generation.compacting import compacting_generate


@pytest.fixture
def model() -> Any:
    return build_model(build_tokenizer())


def states(batch: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 2, tokens, 8), torch.randn(batch, 2, tokens, 8)


def test_a_preallocated_layer_holds_what_a_dynamic_one_does_while_rows_and_tokens_come_and_go() -> None:
    torch.manual_seed(0)
    preallocated, dynamic = PreallocatedLayer(), DynamicLayer()
    for batch, tokens, left in [
        (5, 7, None),
        (5, 1, [0, 2, 4]),
        (3, 1, None),
        (3, 2 * PREALLOCATED_TOKENS, [1]),
        (1, 1, None),
    ]:
        new = states(batch, tokens)
        for ours, theirs in zip(preallocated.update(*new), dynamic.update(*new), strict=True):
            assert torch.equal(ours, theirs)
        if left is not None:
            for layer in (preallocated, dynamic):
                layer.batch_select_indices(torch.tensor(left))
        assert preallocated.get_seq_length() == dynamic.get_seq_length()
        assert torch.equal(preallocated.keys, dynamic.keys) and torch.equal(preallocated.values, dynamic.values)
    for layer in (preallocated, dynamic):
        layer.crop(-3)
        layer.update(*(torch.ones(1, 2, 1, 8), torch.zeros(1, 2, 1, 8)))
    assert torch.equal(preallocated.keys, dynamic.keys) and torch.equal(preallocated.values, dynamic.values)


def test_a_token_is_appended_in_place() -> None:
    layer = PreallocatedLayer()
    layer.update(*states(2, 5))
    places = set()
    for _ in range(2 * PREALLOCATED_TOKENS):
        layer.update(*states(2, 1))
        places.add((layer.keys.data_ptr(), layer.values.data_ptr()))
    assert len(places) == 2, "the room that the first tokens got, and one more"


def test_a_step_repeats_no_shared_keys_and_gives_the_logits_of_sdpa(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations import sdpa_attention

    repeated: list[Any] = []
    repeat = sdpa_attention.repeat_kv

    def recorded(*args: Any) -> Any:
        repeated.append(args)
        return repeat(*args)

    monkeypatch.setattr(sdpa_attention, "repeat_kv", recorded)
    prompt, token = torch.arange(12).reshape(3, 4), torch.tensor([[3], [5], [7]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    logits = []
    for cache in (DynamicCache(config=model.config), preallocated_cache(model)):
        model(input_ids=prompt, attention_mask=mask[:, :4], past_key_values=cache)
        repeated.clear()
        if isinstance(cache.layers[0], PreallocatedLayer):
            with decoding_attention(model, padded=True):
                logits.append(model(input_ids=token, attention_mask=mask, past_key_values=cache).logits)
            assert not repeated
        else:
            logits.append(model(input_ids=token, attention_mask=mask, past_key_values=cache).logits)
            layers = model.config.num_hidden_layers
            assert len(repeated) in (0, 2 * layers), "keys and values in each layer; none from Transformers 5.24 on"
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-5)


def test_sdpa_alone_is_replaced_and_comes_back(model: Any) -> None:
    attentions = []
    model.register_forward_pre_hook(lambda *_: attentions.append(model.config._attn_implementation))
    inputs = {"input_ids": torch.ones(1, 3, dtype=torch.long), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    config = GenerationConfig(max_new_tokens=2, do_sample=False, pad_token_id=0, eos_token_id=1)
    for attention in ("sdpa", "eager"):
        model.set_attn_implementation(attention)
        compacting_generate(model, **inputs, generation_config=config)
        assert model.config._attn_implementation == attention
    assert set(attentions) == {GROUPED_DECODING, "eager"}
    attentions.clear()
    model.set_attn_implementation("sdpa")
    inputs["attention_mask"][0, 0] = 0
    compacting_generate(model, **inputs, generation_config=config)
    assert set(attentions) == {PADDED_DECODING}
