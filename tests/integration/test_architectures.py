"""Every model that is said to be a plain decoder is one: its rows may leave a batch, and lie end to end."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.masking_utils import flash_attention_mask
from trl.trainer.utils import add_fused_lm_head

from tinyzero_trl.generation.compacting import can_compact, compacting_generate
from tinyzero_trl.generation.interception import compacting_batches
from tinyzero_trl.models.architectures import PLAIN_DECODERS, depends_on_width, is_plain_decoder
from tinyzero_trl.models.varlen import TORCH_VARLEN, why_no_varlen
from tinyzero_trl.training.loss.packing import packed_log_probs

VOCABULARY, PROMPT, COMPLETION = 64, 7, 9
SIZES = {
    **{"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3},
    **{"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "sliding_window": 6, "head_dim": 8},
    **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    **{"decoder_sparse_step": 1, "shared_expert_intermediate_size": 16, "query_pre_attn_scalar": 8},
}
BY_POSITIONS = "attends_by_positions"


def attend_by_positions(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """What FlashAttention makes of rows that lie end to end: positions that begin again part them, and no mask does."""
    width, heads = query.size(-1), query.size(1) // key.size(1)
    scores = query @ key.repeat_interleave(heads, 1).transpose(2, 3) * (options.get("scaling") or width**-0.5)
    if softcap := options.get("softcap"):
        scores = softcap * torch.tanh(scores / softcap)
    places = torch.arange(key.size(2))
    distance = places[:, None] - places
    seen = (distance >= 0) & (distance < (options.get("sliding_window") or len(places)))
    seen = seen.expand(len(query), -1, -1)
    positions = options.get("position_ids")
    if attention_mask is not None:
        seen = seen & attention_mask[:, None].bool()
    elif positions is not None:
        row = (positions == 0).cumsum(1)
        seen = seen & (row[:, :, None] == row[:, None])
    weights = scores.masked_fill(~seen[:, None], -1e9).softmax(-1)
    return (weights @ value.repeat_interleave(heads, 1)).transpose(1, 2).contiguous(), None


AttentionInterface.register(BY_POSITIONS, attend_by_positions)
AttentionMaskInterface.register(BY_POSITIONS, flash_attention_mask)


def build(kind: str, **changes: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | changes))
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.3)
    return model.eval()


def rows(count: int, width: int) -> tuple[Tensor, Tensor]:
    """Random tokens with up to three positions of padding on the left, and their mask."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        ids = torch.randint(3, VOCABULARY, (count, width))
    mask = (torch.arange(width) >= torch.arange(count)[:, None] % 4).long()
    return ids * mask, mask


@pytest.mark.parametrize("kind", sorted(PLAIN_DECODERS))
def test_rows_may_leave_the_batch(kind: str) -> None:
    model, (ids, mask) = build(kind), rows(16, PROMPT)
    settings: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0, "disable_compile": True}
    free = model.generate(
        input_ids=ids, attention_mask=mask, generation_config=GenerationConfig(**settings, eos_token_id=1)
    )
    written = free[:, PROMPT:].tolist()
    ends = sorted({row[3 + place % 5] for place, row in enumerate(written)} - {0} - set(written[1]))
    config = GenerationConfig(**settings, eos_token_id=ends or [1])
    assert can_compact(model, config)
    stock = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    assert torch.equal(compacting_generate(model, ids, mask, config), stock)


@pytest.mark.parametrize("attention", ["sdpa", BY_POSITIONS, TORCH_VARLEN])
@pytest.mark.parametrize("kind", sorted(PLAIN_DECODERS))
def test_rows_may_lie_end_to_end(kind: str, attention: str) -> None:
    changes = {"sliding_window": None} if kind == "olmoe" and attention == TORCH_VARLEN else {}  # `why_no_varlen`
    model, (ids, mask) = build(kind, **changes), rows(4, PROMPT + COMPLETION)
    if kind == "gemma2" and attention != BY_POSITIONS:
        assert why_no_varlen(model.config, torch.float32, torch.device("cpu"))
        attention = "eager"  # sdpa leaves out the model's softcap; newer versions of Transformers refuse it
    model.set_attn_implementation(attention)
    add_fused_lm_head(model, temperature=1.0, outputs=("log_probs", "entropy"))
    mask[1, -2:] = mask[3, -5:] = 0
    ids = ids * mask
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-COMPLETION] = -100
    with torch.no_grad():
        outputs = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        packed, _ = packed_log_probs(model, ids, mask, COMPLETION, with_bounds=attention == TORCH_VARLEN)
    torch.testing.assert_close(packed, outputs.log_probs[:, -COMPLETION:], rtol=0, atol=5e-5)


HYBRID = {
    "layer_types": ["linear_attention", "full_attention"],
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "linear_conv_kernel_dim": 4,
}


@pytest.mark.parametrize(("kind", "changes"), [("qwen3_next", HYBRID), ("mamba2", {"num_heads": 8, "n_groups": 1})])
def test_what_is_no_plain_decoder_is_left_to_generate(kind: str, changes: dict[str, Any]) -> None:
    """Caches of recurrent states know no rows to leave: taken apart, these would fail or write something else."""
    model, (ids, mask) = build(kind, **changes, state_size=8, chunk_size=8), rows(8, PROMPT)
    config = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=1, disable_compile=True)
    assert not is_plain_decoder(model)
    stock = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    with compacting_batches(model):
        ours = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    assert torch.equal(ours, stock)
    assert torch.equal(compacting_generate(model, ids, mask, config), stock), "evaluation calls it by itself"


def test_positions_that_depend_on_the_width_are_known() -> None:
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    by_layer = {"full_attention": longrope, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    for parameters, depends in ((longrope, True), (by_layer, True), ({"rope_type": "yarn"}, False), (None, False)):
        config = AutoConfig.for_model("qwen2")
        config.rope_parameters = parameters
        assert depends_on_width(config) is depends
        assert is_plain_decoder(SimpleNamespace(config=config)) is not depends
