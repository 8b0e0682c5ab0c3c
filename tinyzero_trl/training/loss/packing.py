"""The rows of a micro-batch as one row without padding."""

from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from tinyzero_trl.models.varlen import row_bounds

IGNORED_LABEL = -100


def packed_log_probs(
    model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *, with_bounds: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities and entropies of the completions, from a forward pass over the tokens alone.

    All tokens of the batch lie end to end in one row (1, T). Positions that start again tell Transformers where a row
    of the batch begins: FlashAttention takes them as the bounds of its sequences, other implementations as a mask of
    T x T entries. `TORCH_VARLEN` is given the bounds, and no mask is made.

    Args:
        model: a causal language model with rotary positions that TRL's `add_fused_lm_head` has prepared.
        input_ids: prompts padded on the left and completions padded on the right, (B, P + C).
        attention_mask: 1 where there is a token, (B, P + C).
        logits_to_keep: C.
        with_bounds: whether the model attends by `TORCH_VARLEN`.

    Returns:
        Both (B, C), and 0 where there is no token; no entropies where the model's head was not asked for them.
    """
    is_token = attention_mask.bool()
    labels = input_ids.masked_fill(~is_token, IGNORED_LABEL)
    labels[:, :-logits_to_keep] = IGNORED_LABEL
    positions = attention_mask.cumsum(1) - 1
    ids, labels, positions = (values[is_token][None] for values in (input_ids, labels, positions))
    bounds = row_bounds(attention_mask) if with_bounds else {}
    outputs = model(input_ids=ids, position_ids=positions, labels=labels, fused_lm_head=True, **bounds)

    def unpacked(values: Tensor) -> Tensor:
        of_every_token = pad(values, (1, 0))  # TRL's head gives none for the first
        rows = values.new_zeros(input_ids.shape).masked_scatter(is_token, of_every_token)
        return rows[:, -logits_to_keep:]

    return unpacked(outputs.log_probs), None if outputs.entropy is None else unpacked(outputs.entropy)
