"""Attention over a cache that no decoding step copies.

For every token, Transformers copies the whole cache twice: to append the token's keys and values, and, where query
heads share them (GQA) and rows are padded, to repeat them for every query head. With hundreds of long rows these copies
are most of a rollout. Here the cache is preallocated and appends in place, and the query heads of a group stand where
query positions do: a decoding step has one position, so their attention is the same computation, up to its rounding.

In mixed precision, rotary positions leave keys in float32, and attention casts all of them anew for every token. Here
they are kept as attention takes them.

For every token, Transformers before 5.24 also reads back from the device whether a row is padded. Here it is told once.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tinyzero_trl.models.varlen import attention_replaced

GROUPED_DECODING = "sdpa_grouped_decoding"
"""The name of `grouped_decoding` among Transformers' attention implementations, for a batch without padding."""

PADDED_DECODING = "sdpa_grouped_decoding_padded"
"""The same for a batch with padding: the implementations differ in the mask that Transformers makes for them."""

PREALLOCATED_TOKENS = 128
"""Tokens for which a cache allocates memory at a time."""


class PreallocatedCache(DynamicCache):
    """A dynamic cache from which `generate` takes no token back.

    On Apple's GPUs `generate` looks a token late whether to stop, and then drops this token. Rows that end by it would
    be taken for finished, and rows with seeds of their own would lose a random number. It does so where it can crop the
    cache that it returns, and so not with this one.
    """

    is_croppable = False


class PreallocatedLayer(DynamicLayer):
    """A dynamic cache layer whose `keys` and `values` (B, H, L, D) are the used part of larger tensors."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Start empty, with nothing allocated."""
        super().lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        self._allocated = (self.keys, self.values)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append `key_states` and `value_states` (B, H, new, D) and return all keys and values, in autocast's type."""
        kind = key_states.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            key_states, value_states = key_states.to(dtype), value_states.to(dtype)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        length = self.get_seq_length()
        end = length + key_states.size(-2)
        # Whoever selects rows puts other tensors in place of `keys` and `values`.
        is_view = length > 0 and self.keys.data_ptr() == self._allocated[0].data_ptr()
        if not is_view or end > self._allocated[0].size(-2):
            self._allocated = (_preallocated(self.keys, key_states, end), _preallocated(self.values, value_states, end))
        for memory, states in zip(self._allocated, (key_states, value_states), strict=True):
            memory[:, :, length:end] = states
        keys, values = (memory[:, :, :end] for memory in self._allocated)
        self.keys, self.values = keys, values
        return keys, values


def _preallocated(old: Tensor, new: Tensor, tokens: int) -> Tensor:
    """A tensor for `tokens` and `PREALLOCATED_TOKENS` more, that begins with `old`."""
    batch, heads, _, width = new.shape
    memory = new.new_empty(batch, heads, tokens + PREALLOCATED_TOKENS, width)
    if old.numel():
        memory[:, :, : old.size(-2)] = old
    return memory


def preallocated_cache(model: Any) -> PreallocatedCache:
    """The cache that `generate` would make for `model`, with preallocated layers in place of plain dynamic ones."""
    cache = PreallocatedCache(config=model.config)
    cache.layers = [PreallocatedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def grouped_decoding(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' SDPA attention, which for a single query position repeats no shared keys and values.

    Args:
        module: the attention layer.
        query: (B, heads, Q, D).
        key: (B, shared heads, L, D); each serves heads / shared heads successive query heads.
        value: like `key`.
        attention_mask: (B, 1, Q, L) or None.
        scaling: of the products, 1 / sqrt(D) if None.
        **kwargs: what else the model gives `sdpa_attention_forward`.

    Returns:
        The attended values, (B, Q, heads, D), and None.
    """
    batch, heads, positions, width = query.shape
    shared = key.size(1)
    masks_heads = attention_mask is not None and attention_mask.size(1) != 1
    if positions > 1 or shared == heads or masks_heads:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    grouped = query.reshape(batch, shared, heads // shared, width)
    attended = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return attended.reshape(batch, 1, heads, width), None


def _mask_of_unpadded(**arguments: Any) -> Tensor | None:
    """Transformers' mask for SDPA, from no padding: whether there is some need not be read from the device."""
    return sdpa_mask(**arguments | {"attention_mask": None})


def _mask_of_padded(**arguments: Any) -> Tensor | None:
    """Transformers' mask for SDPA, made without reading from the device whether it can be left out."""
    return sdpa_mask(**arguments | {"allow_is_causal_skip": False})


for _name, _mask in ((GROUPED_DECODING, _mask_of_unpadded), (PADDED_DECODING, _mask_of_padded)):
    AttentionInterface.register(_name, grouped_decoding)
    AttentionMaskInterface.register(_name, _mask)


def decoding_attention(model: Any, *, padded: bool) -> AbstractContextManager[None]:
    """Within it, `model` attends by `grouped_decoding` if it attends by Transformers' SDPA outside.

    Args:
        model: a causal language model of Transformers.
        padded: whether any row of its passes is padded. The mask depends on it alone.
    """
    return attention_replaced(model, "sdpa", PADDED_DECODING if padded else GROUPED_DECODING)
