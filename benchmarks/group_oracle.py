"""The rule that knows the truth: backward induction on tables, from thousands of groups of the very learner.

It knows of a prompt what the policy may know (nothing, its label, or what its last visit showed) and chooses its price
in the same way. Nothing of it is shared with `tinyzero_trl.windows`, so that it also checks that code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from group_learners import GROUP, MAXIMUM, Rollout
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class OracleRule:
    """(stages - 1, states) whether a group goes on."""

    ends: tuple[int, ...]
    go_on: NDArray[np.bool_]
    knowledge_size: int

    def limits(self, groups: Rollout, knowledge: Ints) -> Ints:
        """(N,) where each group is cut, if it is."""
        limit, live = np.full(len(knowledge), self.ends[0]), np.ones(len(knowledge), dtype=bool)
        for stage, rule in enumerate(self.go_on):
            live &= rule[_state(groups, self.ends[stage], knowledge, self.knowledge_size)]
            limit[live] = self.ends[stage + 1]
        return limit


def fit_oracle(
    groups: Rollout, knowledge: Ints, knowledge_size: int, ends: tuple[int, ...], slack: float, *, by_tokens: bool
) -> OracleRule:
    """The best rule on these groups with the best price for it; `knowledge` (N,) is a number below `knowledge_size`."""
    table = _Table(groups, knowledge, knowledge_size, ends, by_tokens)

    def expected(price: float) -> tuple[NDArray[np.bool_], float, float, float]:
        go_on = table.solve(price)
        limit = OracleRule(ends, go_on, knowledge_size).limits(groups, knowledge)
        place = np.searchsorted(ends, limit)
        rows = np.arange(len(limit))
        return go_on, table.gain[place, rows].mean(), table.tokens[place, rows].mean(), table.won[place, rows].sum()

    price = 0.0
    for _ in range(6):
        _, gain, tokens, _ = expected(price)
        price = max(price, gain / tokens)
    low, high, everything = 0.0, price, table.won[-1].sum()
    for _ in range(10):
        if expected(price)[3] >= (1 - slack) * everything:
            low = price
        else:
            high = price
        if low == high:
            break
        price = (low + high) / 2
    return OracleRule(ends, expected(low)[0], knowledge_size)


class _Table:
    """Gain, tokens and successes of every group, (stages, N), if it is cut at each end."""

    def __init__(self, groups: Rollout, knowledge: Ints, size: int, ends: Sequence[int], by_tokens: bool) -> None:
        self._states = [_state(groups, end, knowledge, size) for end in ends]
        self._count = (GROUP + 1) ** 2 * size
        right = groups.right & (groups.length <= MAXIMUM)
        full = _advantages(right)
        parts = []
        for end in ends:
            length = np.minimum(groups.length, end)
            cut = _advantages(right & (groups.length <= end))
            weight = length if by_tokens else np.ones_like(length)
            parts.append(
                ((weight * cut * (2 * full - cut)).sum(1), length.sum(1), (right & (groups.length <= end)).sum(1))
            )
        self.gain, self.tokens, self.won = (np.array(part) for part in zip(*parts, strict=True))

    def solve(self, price: float) -> NDArray[np.bool_]:
        worth = np.zeros(self._count)
        rules = []
        for stage in reversed(range(len(self._states) - 1)):
            better = self.gain[stage + 1] - self.gain[stage] - price * (self.tokens[stage + 1] - self.tokens[stage])
            better = better + worth[self._states[stage + 1]]
            counts = np.bincount(self._states[stage], minlength=self._count)
            mean = np.bincount(self._states[stage], better, self._count) / np.maximum(counts, 1)
            rules.append(mean >= -1e-9)
            worth = np.maximum(mean, 0)
        return np.array(rules[::-1])


def _advantages(right: NDArray[np.bool_]) -> Floats:
    reward = right.astype(float)
    return np.asarray((reward - reward.mean(1, keepdims=True)) / (reward.std(1, ddof=1, keepdims=True) + 1e-4))


def _state(groups: Rollout, end: int, knowledge: Ints, size: int) -> Ints:
    ended = groups.length <= end
    won, lost = (groups.right & ended).sum(1), (~groups.right & ended).sum(1)
    return np.asarray((won * (GROUP + 1) + lost) * size + knowledge)
