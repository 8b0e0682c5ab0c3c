"""Which rows are worth a forward pass, and in which micro-batches: plans, pure PyTorch.

A GRPO batch arrives as rows padded to the longest completion of its generation batch. The functions here
measure the rows, leave out those whose gradient is exactly zero, order the rest by length and cut them into
micro-batches with little padding, without changing the sum that the loss is made of. A micro-batch is what one
forward pass takes. Axes: B rows, P prompt tokens (padded on the left), C completion tokens (padded on the right).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from operator import add

import torch
from torch import Tensor

# What divides the sum over tokens in each of TRL's loss types: the rows of the batch, its trained tokens, or a
# count that covers the generation batch and so stays right for any subset of it.
LOSS_NORMALISERS: Mapping[str, str] = {
    "grpo": "rows",
    "dr_grpo": "rows",
    "sapo": "rows",
    "luspo": "rows",
    "bnpo": "tokens",
    "dapo": "batch",
    "cispo": "batch",
    "vespo": "batch",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One completion of a padded batch, in tokens. `trained_tokens` are those that enter the loss."""

    index: int
    prompt_tokens: int
    completion_tokens: int
    trained_tokens: int


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that share one forward pass, padded to the longest prompt and the longest completion among them.

    A dummy keeps a rank in step with the others when it has no rows left: one row, one masked token.
    """

    rows: tuple[Row, ...]
    is_dummy: bool = False

    @property
    def indices(self) -> list[int]:
        """Positions of the rows in the batch they were measured in."""
        return [row.index for row in self.rows]

    @property
    def prompt_width(self) -> int:
        """Longest prompt, in tokens."""
        return max(row.prompt_tokens for row in self.rows)

    @property
    def completion_width(self) -> int:
        """Longest completion, in tokens; at least one, because a forward pass without completion has no shape."""
        return 1 if self.is_dummy else max(1, *(row.completion_tokens for row in self.rows))

    @property
    def tokens(self) -> int:
        """Tokens that are not padding; none in a dummy."""
        return 0 if self.is_dummy else sum(row.prompt_tokens + row.completion_tokens for row in self.rows)

    @property
    def trained_tokens(self) -> int:
        """Tokens that enter the loss; none in a dummy."""
        return 0 if self.is_dummy else sum(row.trained_tokens for row in self.rows)

    @property
    def positions(self) -> int:
        """Token positions that the model computes, padding included."""
        return len(self.rows) * (self.prompt_width + self.completion_width)


@dataclass(frozen=True, slots=True)
class ComputeCounts:
    """What the micro-batches of one rank were spent on; add the counts of several ranks field by field."""

    rows: int = 0
    rows_skipped: int = 0
    tokens: int = 0
    positions: int = 0

    def __add__(self, other: "ComputeCounts") -> "ComputeCounts":
        return ComputeCounts(*map(add, astuple(self), astuple(other)))


def measure_rows(prompt_mask: Tensor, completion_mask: Tensor, trained_mask: Tensor) -> list[Row]:
    """Lengths of every row, in one transfer from the device.

    Args:
        prompt_mask: (B, P), 1 from the first prompt token on.
        completion_mask: (B, C); the length of a completion reaches to its last 1.
        trained_mask: (B, C), 1 where a token enters the loss.
    """
    prompt_steps = torch.arange(prompt_mask.size(1), 0, -1, device=prompt_mask.device)
    completion_steps = torch.arange(1, completion_mask.size(1) + 1, device=completion_mask.device)
    figures = torch.stack(
        [
            (prompt_mask.bool() * prompt_steps).amax(1),
            (completion_mask.bool() * completion_steps).amax(1),
            trained_mask.bool().sum(1),
        ],
        dim=1,
    )
    return [Row(index, *lengths) for index, lengths in enumerate(figures.tolist())]


def rows_with_gradient(rows: Sequence[Row], advantages: Tensor, *, has_kl_term: bool) -> list[Row]:
    """The rows whose gradient can differ from zero.

    Every term of the loss is multiplied by the mask of trained tokens, and every term but the KL divergence
    by the advantage. So a row without a trained token has no gradient, and one whose advantage is
    exactly zero has none either unless there is a KL term. Rounded advantages (1e-9 for 0) are kept.

    Args:
        rows: the measured rows of the batch.
        advantages: (B,) or (B, C).
        has_kl_term: whether the loss holds a term that does not vanish with the advantage.
    """
    nonzero = (advantages.reshape(len(rows), -1) != 0).any(1).tolist() if rows else []
    return [row for row in rows if row.trained_tokens and (has_kl_term or nonzero[row.index])]


def longest_first(rows: Iterable[Row]) -> list[Row]:
    """Rows by length, the longest first: neighbours pad each other least, and memory peaks at the start."""
    return sorted(rows, key=lambda row: (-row.completion_tokens, -row.prompt_tokens, row.index))


def cut(
    rows: Sequence[Row], *, max_tokens: int | None, max_rows: int | None = None, padded: bool = True
) -> list[MicroBatch]:
    """Cut rows, longest first, into micro-batches of at most `max_tokens` positions and `max_rows` rows.

    A row longer than the budget gets a micro-batch of its own; None sets no limit. Without `padded`, rows lie end to
    end and take no more positions than they have tokens.
    """
    micro_batches: list[list[Row]] = []
    prompt_width = completion_width = tokens = 0
    for row in longest_first(rows):
        # The first row of a micro-batch has its longest completion; only the prompt can still widen it.
        widest_prompt = max(prompt_width, row.prompt_tokens)
        row_tokens = row.prompt_tokens + row.completion_tokens
        count = len(micro_batches[-1]) + 1 if micro_batches else 0
        positions = count * (widest_prompt + completion_width) if padded else tokens + row_tokens
        fits = (max_tokens is None or positions <= max_tokens) and (max_rows is None or count <= max_rows)
        if micro_batches and fits:
            micro_batches[-1].append(row)
            prompt_width, tokens = widest_prompt, tokens + row_tokens
        else:
            micro_batches.append([row])
            prompt_width, completion_width = row.prompt_tokens, max(1, row.completion_tokens)
            tokens = row_tokens
    return [MicroBatch(tuple(each)) for each in micro_batches]


def bring_to_count(micro_batches: Sequence[MicroBatch], count: int, all_rows: Sequence[Row]) -> list[MicroBatch]:
    """Bring a plan to exactly `count` micro-batches: halve the costliest, and add dummies once all are single rows.

    Args:
        micro_batches: the plan, at most `count` long.
        count: micro-batches that every rank has agreed on.
        all_rows: the rows of the batch before any was left out; a dummy borrows the shortest prompt.
    """
    assert len(micro_batches) <= count, f"{len(micro_batches)} micro-batches cannot become {count}"
    plan = list(micro_batches)
    while len(plan) < count and any(len(micro_batch.rows) > 1 for micro_batch in plan):
        costliest = max(
            (place for place, micro_batch in enumerate(plan) if len(micro_batch.rows) > 1),
            key=lambda place: plan[place].positions,
        )
        rows = plan[costliest].rows
        half = (len(rows) + 1) // 2
        plan[costliest : costliest + 1] = [MicroBatch(rows[:half]), MicroBatch(rows[half:])]
    dummy = MicroBatch((min(all_rows, key=lambda row: row.prompt_tokens),), is_dummy=True)
    return plan + [dummy] * (count - len(plan))


def loss_weight(loss_type: str, micro_batch: MicroBatch, all_rows: Sequence[Row]) -> float:
    """The factor that turns the loss of a micro-batch into its share of the loss of the batch it was cut from.

    Args:
        loss_type: a key of `LOSS_NORMALISERS`.
        micro_batch: rows that share a forward pass.
        all_rows: the rows of the batch before any was left out.
    """
    if micro_batch.is_dummy:
        return 0.0
    match LOSS_NORMALISERS[loss_type]:
        case "rows":
            return len(micro_batch.rows) / len(all_rows)
        case "tokens":
            return max(1, micro_batch.trained_tokens) / max(1, sum(row.trained_tokens for row in all_rows))
        case _:
            return 1.0
