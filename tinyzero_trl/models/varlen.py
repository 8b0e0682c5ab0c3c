"""Attention over rows that lie end to end, without padding and without a mask.

PyTorch 2.11 and later has a kernel for it on CUDA (`torch.nn.attention.varlen`), in half precision. Elsewhere each row
attends by itself: the reference, which is also what the kernel is compared with before a run relies on it.

`TORCH_VARLEN` is one of Transformers' attention implementations from the import of this module on. It attends by rows
where a pass brings `row_bounds`, and as Transformers' `sdpa` in every other pass.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tinyzero_trl.messages import first_line_of

TORCH_VARLEN = "torch_varlen"
"""The name of `varlen_attention` among Transformers' attention implementations."""

HALF = (torch.bfloat16, torch.float16)
"""What the kernel computes in."""

States = tuple[Tensor, Tensor, Tensor]
"""Queries (1, heads, T, D), keys (1, shared heads, T, D) and values like keys."""

_TOLERANCE = 2**-5  # of the largest entry: bfloat16 keeps eight bits, and a wrong bound changes entries altogether
_CHECKED_ROWS = (1, 130, 64, 17)  # tokens of each row that the kernel is tried with
_CHECKED_WINDOW = 32  # shorter than some of these rows


def row_bounds(attention_mask: Tensor) -> dict[str, Any]:
    """Keyword arguments of a model, in the names of Transformers, that say where each row begins and ends.

    Args:
        attention_mask: 1 where there is a token, (B, T). The tokens of all rows are passed to the model as one row.
    """
    lengths = attention_mask.sum(1)
    lengths = lengths[lengths > 0]
    bounds = pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    longest = int(lengths.max())
    # Transformers takes a mask of four dimensions as it is. Whoever would read this one fails: it has no entries.
    no_mask = attention_mask.new_empty(1, 1, 0, 0, dtype=torch.bool)
    return {
        "attention_mask": no_mask,
        **{"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds},
        **{"max_length_q": longest, "max_length_k": longest},
    }


def varlen_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row of a pass that was given `row_bounds`; Transformers' SDPA in any other pass.

    Args:
        module: the attention layer.
        query: (1, heads, T, D).
        key: (1, shared heads, T, D); each serves heads / shared heads successive query heads.
        value: like `key`.
        attention_mask: that of `row_bounds`, without entries, or one for SDPA.
        dropout: must be 0 where rows attend by themselves.
        scaling: of the products, 1 / sqrt(D) if None.
        sliding_window: how many tokens a token sees, itself included; all before it if None.
        cu_seq_lens_q: where each row begins, and T at the end, (rows + 1,); if None, positions tell.
        max_length_q: tokens of the longest row.
        **kwargs: what else the model gives its attention.

    Returns:
        The attended values, (1, T, heads, D), and None.
    """
    if attention_mask is None or attention_mask.numel():
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if cu_seq_lens_q is None or max_length_q is None:  # some models do not hand them on
        cu_seq_lens_q, max_length_q = _bounds_of(kwargs["position_ids"])
    assert dropout == 0.0, "`why_no_varlen` refuses models with dropout"
    dtype = torch.get_autocast_dtype(query.device.type) if torch.is_autocast_enabled(query.device.type) else query.dtype
    states = (query.to(dtype), key.to(dtype), value.to(dtype))
    attend = _by_kernel if query.is_cuda and dtype in HALF else _by_row
    return attend(states, cu_seq_lens_q, max_length_q, scaling, sliding_window), None


def _bounds_of(position_ids: Tensor) -> tuple[Tensor, int]:
    """Where each row begins, and T at the end, from positions (1, T) that start again; and the longest row."""
    starts = (position_ids[0] == 0).nonzero()[:, 0]
    bounds = pad(starts, (0, 1), value=position_ids.size(1)).to(torch.int32)
    return bounds, int(bounds.diff().max())


def _by_kernel(
    states: States,
    bounds: Tensor,
    longest: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
) -> Tensor:
    """By PyTorch's kernel, which takes (T, heads, D)."""
    kernel = _kernel()
    assert kernel is not None, "`why_no_varlen` has said so"
    tokens = [each[0].transpose(0, 1).contiguous() for each in states]
    window = (-1 if sliding_window is None else sliding_window - 1, 0)  # tokens seen before and after
    attended: Tensor = kernel(*tokens, bounds, bounds, longest, longest, scale=scaling, window_size=window)
    return attended[None]


def _by_row(
    states: States,
    bounds: Tensor,
    longest: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
) -> Tensor:
    """Row after row by SDPA: the reference."""
    attended = []
    shares_keys = states[0].size(1) != states[1].size(1)
    for start, end in pairwise(bounds.tolist()):
        query, key, value = (each[:, :, start:end] for each in states)
        mask = None
        if sliding_window is not None and end - start > sliding_window:
            places = torch.arange(end - start, device=query.device)
            distance = places[:, None] - places
            mask = (distance >= 0) & (distance < sliding_window)
        causal = mask is None
        options: dict[str, Any] = {"attn_mask": mask, "is_causal": causal, "scale": scaling, "enable_gqa": shares_keys}
        attended.append(scaled_dot_product_attention(query, key, value, **options))
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous()


def _kernel() -> Callable[..., Any] | None:
    """PyTorch's attention over rows of unequal length, or None where it lacks what is needed here."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    if not {"scale", "window_size"} <= set(known):
        return None
    # from 2.12 on it has to be told that query heads share keys; before, it finds out
    return partial(varlen_attn, enable_gqa=True) if "enable_gqa" in known else varlen_attn


def why_no_varlen(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why a model cannot attend by `varlen_attention` in passes of this type; None if it can.

    Where the kernel would run, it is run with heads of the model's shape, forward and backward, and has to give what
    the reference gives; with a sliding window, too, if the model has one.

    Args:
        config: of the model.
        dtype: what its attention computes in.
        device: where.
    """
    text = config.get_text_config()
    if dropout := getattr(text, "attention_dropout", 0.0):
        return f"the model has attention_dropout {dropout:g}"
    if softcap := getattr(text, "attn_logit_softcapping", None):
        return f"the model has attn_logit_softcapping {softcap:g}, which neither sdpa nor the kernel knows"
    if config.model_type == "olmoe" and getattr(text, "sliding_window", None):
        return "an olmoe with sliding_window has a window in kernels and none in sdpa"
    if device.type != "cuda" or dtype not in HALF:
        return None
    heads: int = text.num_attention_heads
    shared = getattr(text, "num_key_value_heads", None) or heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    fault = kernel_fault(heads, shared, width, dtype, device)
    if fault is None and getattr(text, "sliding_window", None):
        fault = kernel_fault(heads, shared, width, dtype, device, _CHECKED_WINDOW)
    return fault


def kernel_fault(
    heads: int,
    shared_heads: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    sliding_window: int | None = None,
) -> str | None:
    """What is wrong with PyTorch's kernel for heads of this shape, found by running it; None if nothing is."""
    if _kernel() is None:
        return f"PyTorch {torch.__version__} has no torch.nn.attention.varlen that takes windows; 2.11 has"
    generator = torch.Generator(device).manual_seed(0)
    tokens = sum(_CHECKED_ROWS)

    def draw(count: int) -> Tensor:
        return torch.randn(1, count, tokens, width, generator=generator, device=device, dtype=dtype).requires_grad_()

    states = (draw(heads), draw(shared_heads), draw(shared_heads))
    bounds = pad(torch.tensor(_CHECKED_ROWS, device=device).cumsum(0), (1, 0)).to(torch.int32)
    weights = torch.randn(1, tokens, heads, width, generator=generator, device=device, dtype=dtype)
    found = []
    try:
        with torch.enable_grad():
            for attend in (_by_kernel, _by_row):
                output = attend(states, bounds, max(_CHECKED_ROWS), sliding_window=sliding_window)
                found.append([output, *torch.autograd.grad(output, states, weights)])
    except (RuntimeError, TypeError, ValueError) as error:
        return f"PyTorch's kernel fails ({first_line_of(error)})"
    for kernel, reference in zip(*found, strict=True):
        difference = ((kernel - reference).abs().max() / reference.abs().max()).item()
        if not difference <= _TOLERANCE:  # so that NaN is a fault, too
            return f"PyTorch's kernel differs from its reference by {difference:.2g} of the largest entry"
    return None


AttentionInterface.register(TORCH_VARLEN, varlen_attention)
AttentionMaskInterface.register(TORCH_VARLEN, sdpa_mask)


def sampling_attention(model: Any) -> AbstractContextManager[None]:
    """Within it, a model that attends by `TORCH_VARLEN` has the `sdpa` that samplers know how to replace."""
    return attention_replaced(model, TORCH_VARLEN, "sdpa")


@contextmanager
def attention_replaced(model: Any, own: str, other: str) -> Iterator[None]:
    """Within it, a model that attends by `own` attends by `other`; any other model as it does."""
    if model.config._attn_implementation != own:
        yield
        return
    model.set_attn_implementation(other)
    try:
        yield
    finally:
        model.set_attn_implementation(own)
