"""Attention over rows that lie end to end: each row sees itself alone, by the kernel as by the reference."""

import logging
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AutoConfig, Gemma2Config, OlmoeConfig, Qwen2Config
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.support.fixed_rollouts import train
from tinyzero_trl import AdaptiveGRPOTrainer
from tinyzero_trl.models import varlen
from tinyzero_trl.models.varlen import (
    TORCH_VARLEN,
    States,
    kernel_fault,
    row_bounds,
    sampling_attention,
    varlen_attention,
    why_no_varlen,
)

HEADS, SHARED, WIDTH = 4, 2, 8
CPU = torch.device("cpu")
DEVICE = (torch.float32, CPU)


def naive_kernel(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, _: Tensor, longest: int, __: int, **options: Any
) -> Tensor:
    """`torch.nn.attention.varlen.varlen_attn` as its documentation describes it, entry by entry; (T, heads, D)."""
    before, after = options["window_size"]
    scale = options["scale"] or query.size(-1) ** -0.5
    repeats = query.size(1) // key.size(1)
    key, value = (states.repeat_interleave(repeats, 1) for states in (key, value))
    rows = []
    for start, end in pairwise(starts.tolist()):
        assert end - start <= longest
        places = torch.arange(end - start)
        ahead = places - places[:, None]
        seen = (ahead <= after) & ((ahead >= -before) | (before < 0))
        scores = torch.einsum("qhd,khd->hqk", query[start:end], key[start:end]) * scale
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        rows.append(torch.einsum("hqk,khd->qhd", weights, value[start:end]))
    return torch.cat(rows)


def blind_kernel(*states: Any, **options: Any) -> Tensor:
    """A kernel that does not see where rows begin."""
    query, key, value, starts = states[:4]
    return naive_kernel(query, key, value, starts[[0, -1]], starts, len(query), len(query), **options)


def windowless_kernel(*states: Any, **options: Any) -> Tensor:
    """A kernel that takes a window and does not apply it."""
    return naive_kernel(*states, **{**options, "window_size": (-1, 0)})


def failing_kernel(*_: Any, **__: Any) -> Tensor:
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nand more")


@pytest.fixture
def states() -> States:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 12, WIDTH) for heads in (HEADS, SHARED, SHARED))
    return query, key, value


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("scaling", [None, 0.2])
def test_kernel_and_reference_attend_within_rows(
    states: States, monkeypatch: pytest.MonkeyPatch, window: int | None, scaling: float | None
) -> None:
    monkeypatch.setattr(varlen, "_kernel", lambda: naive_kernel)
    bounds = torch.tensor([0, 5, 6, 12], dtype=torch.int32)
    by_kernel, by_row = (attend(states, bounds, 6, scaling, window) for attend in (varlen._by_kernel, varlen._by_row))
    assert by_row.shape == (1, 12, HEADS, WIDTH)
    torch.testing.assert_close(by_kernel, by_row, rtol=1e-5, atol=1e-6)
    others = tuple(each.clone() for each in states)
    for each in others:
        each[:, :, :6] = 1.0  # what another row holds
    torch.testing.assert_close(varlen._by_row(others, bounds, 6, scaling, window)[:, 6:], by_row[:, 6:])


def test_bounds_leave_out_rows_without_tokens() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]])
    bounds = row_bounds(mask)
    assert bounds["cu_seq_lens_q"].tolist() == [0, 2, 5] and bounds["cu_seq_lens_q"].dtype == torch.int32
    assert bounds["max_length_q"] == bounds["max_length_k"] == 3


@pytest.mark.parametrize("handed_on", [True, False])
def test_rows_are_known_from_their_bounds_or_from_positions(states: States, handed_on: bool) -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 0]])
    bounds = row_bounds(mask)
    no_mask = bounds.pop("attention_mask")
    positions = torch.tensor([[*range(5), *range(6), 0]])
    module: Any = SimpleNamespace()
    given = bounds if handed_on else {}
    ours, _ = varlen_attention(module, *states, no_mask, position_ids=positions, **given)
    assert torch.equal(ours, varlen._by_row(states, torch.tensor([0, 5, 11, 12]), 6))


def test_without_bounds_it_is_sdpa(states: States) -> None:
    module: Any = SimpleNamespace(num_key_value_groups=HEADS // SHARED, is_causal=True, training=False)
    ours, _ = varlen_attention(module, *states, None, scaling=0.2)
    assert torch.equal(ours, sdpa_attention_forward(module, *states, None, scaling=0.2)[0])


def test_whoever_takes_the_bounds_for_a_mask_fails(states: States) -> None:
    """An attention that does not read bounds would let rows see each other, and say nothing."""
    module: Any = SimpleNamespace(num_key_value_groups=HEADS // SHARED, is_causal=True, training=False)
    mask = row_bounds(torch.ones(2, 6, dtype=torch.long))["attention_mask"]
    with pytest.raises(RuntimeError):
        sdpa_attention_forward(module, *states, mask)


def test_a_kernel_is_tried_before_a_run_relies_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (HEADS, SHARED, WIDTH, *DEVICE)
    for kernel, says in ((naive_kernel, None), (blind_kernel, "differs from its reference"), (None, "2.11 has")):
        monkeypatch.setattr(varlen, "_kernel", lambda kernel=kernel: kernel)
        fault = kernel_fault(*shape)
        assert fault is None if says is None else says in str(fault)
    monkeypatch.setattr(varlen, "_kernel", lambda: failing_kernel)
    assert kernel_fault(*shape) == "PyTorch's kernel fails (FlashAttention only supports Ampere GPUs or newer.)"


@pytest.mark.parametrize(("window", "model_type"), [(64, "mistral"), (None, "mistral"), (None, "qwen2")])
def test_a_kernel_is_tried_with_a_window_if_the_model_has_one(
    monkeypatch: pytest.MonkeyPatch, window: int | None, model_type: str
) -> None:
    config = AutoConfig.for_model(model_type, sliding_window=window)
    monkeypatch.setattr(varlen, "_kernel", lambda: windowless_kernel)
    monkeypatch.setattr(varlen, "kernel_fault", lambda *shape: kernel_fault(HEADS, SHARED, WIDTH, *DEVICE, *shape[5:]))
    fault = why_no_varlen(config, torch.bfloat16, torch.device("cuda"))
    assert fault is None if window is None else "differs from its reference" in str(fault)


def test_this_pytorch_has_the_kernel_that_is_called() -> None:
    """The names of its arguments, which a new version may change."""
    assert varlen._kernel() is not None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", varlen.HALF)
def test_the_kernel_of_this_pytorch_gives_what_the_reference_gives(dtype: torch.dtype) -> None:
    for heads, shared, width in ((14, 2, 64), (12, 2, 128), (16, 16, 64)):
        assert kernel_fault(heads, shared, width, dtype, torch.device("cuda")) is None


def test_dropout_is_not_left_out() -> None:
    reason = why_no_varlen(Qwen2Config(attention_dropout=0.1), torch.float32, CPU)
    assert reason == "the model has attention_dropout 0.1"
    assert why_no_varlen(Qwen2Config(), torch.float32, CPU) is None
    assert "attn_logit_softcapping 50" in str(why_no_varlen(Gemma2Config(), torch.float32, CPU))


def test_a_window_that_sdpa_does_not_have_is_not_given_to_the_kernel() -> None:
    config: Any = OlmoeConfig()
    config.sliding_window = 8
    assert "sliding_window" in str(why_no_varlen(config, torch.float32, CPU))


@pytest.fixture
def attentions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The attentions by which models attend, each time one does."""
    called: list[str] = []
    for name in ("sdpa", TORCH_VARLEN):
        function = AttentionInterface()[name]

        def noted(*args: Any, function: Any = function, name: str = name, **kwargs: Any) -> Any:
            called.append(name if kwargs.get("cu_seq_lens_q") is None else f"{name} by rows")
            return function(*args, **kwargs)

        monkeypatch.setitem(AttentionInterface._global_mapping, name, noted)
    return called


@pytest.mark.parametrize(("wanted", "attention"), [(True, f"{TORCH_VARLEN} by rows"), (False, "sdpa"), (None, "sdpa")])
def test_passes_of_the_loss_attend_by_rows_where_it_is_asked_for(
    attentions: list[str], caplog: pytest.LogCaptureFixture, wanted: bool | None, attention: str
) -> None:
    with caplog.at_level(logging.INFO, logger="tinyzero_trl.training.loss.attention"):
        trainer = train(AdaptiveGRPOTrainer, padding_free=wanted, beta=0.1, optimizer_steps=1)
    assert set(attentions) == {attention}, "policy and reference alike"
    said = [each for each in caplog.messages if each.startswith("attention of training passes: ")]
    assert len(said) == bool(wanted)
    if wanted:
        assert "varlen_attn" in said[0]
        with sampling_attention(trainer.model):
            assert trainer.model.config._attn_implementation == "sdpa"
        assert trainer.model.config._attn_implementation == TORCH_VARLEN
