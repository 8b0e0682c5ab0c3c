"""How much of the full rollout's gradient a cut group keeps, by the advantages and weights of the loss.

Take a group of G completions with binary rewards. In the full rollout n of them succeed, and completion i has the
advantage A_i. Where the group is cut, s <= n have succeeded by then, the others count as failures, and completion i has
the advantage A'_i. Take the score vectors of different tokens as orthogonal and equally long. With one weight per
completion, the cut gradient explains of the squared norm of the full gradient

    sum_i A_i^2 - sum_i (A_i - A'_i)^2 = sum_i A'_i (2 A_i - A'_i).

This is all of it where nothing is cut, and 0 where no completion has an advantage when cut. It is negative where the
cut gives most of the advantage to the wrong completions: with one success of eight, say, where six others would have
followed. The sum of squared advantages alone, which is p (1 - p) without scaling, calls such a group full of signal.

Losses that average over the tokens of a completion (grpo) give it one weight. Losses that sum over tokens (dapo,
dr_grpo) weigh it by its tokens: the sum above runs over tokens, and tokens that are cut explain nothing.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

LOSSES_BY_SEQUENCE = frozenset({"grpo", "sapo"})
"""TRL's loss types that take the mean over a completion's tokens; the others sum over tokens."""

_SCALING_EPSILON = 1e-4  # TRL's, in the divisor of an advantage


@dataclass(frozen=True)
class Gain:
    """What counts as gain.

    Attributes:
        by_tokens: a completion weighs as much as it has tokens; else all weigh alike.
        scaled: advantages are divided by the group's standard deviation.
        of_cut: completions that are cut have a part in the loss.
    """

    by_tokens: bool
    scaled: bool
    of_cut: bool = True


@lru_cache(maxsize=4096)
def advantages(successes: int, size: int, scaled: bool) -> tuple[float, float]:
    """Of a success and of a failure in a group of `size` completions with rewards 1 and 0, by TRL's definition."""
    mean = successes / size
    spread = 1.0
    if scaled and size > 1:
        spread = math.sqrt(size * mean * (1 - mean) / (size - 1)) + _SCALING_EPSILON
    return (1 - mean) / spread, -mean / spread


@lru_cache(maxsize=65536)
def explained(won: int, lost: int, further: int, size: int, gain: Gain) -> tuple[float, float, float]:
    """The terms A' (2 A - A') of a group that is cut, each to be multiplied by the weight of its completions.

    Args:
        won: successes by the cut.
        lost: failures by the cut.
        further: of the completions that are cut, how many would have succeeded.
        size: completions of the group.
        gain: what counts.

    Returns:
        The sums over its successes, over its failures, and over the completions that are cut.
    """
    full, cut = advantages(won + further, size, gain.scaled), advantages(won, size, gain.scaled)
    of_failure = cut[1] * (2 * full[1] - cut[1])
    of_late = cut[1] * (2 * full[0] - cut[1])
    open_failures = size - won - lost - further
    of_cut = further * of_late + open_failures * of_failure if gain.of_cut else 0.0
    return won * cut[0] * (2 * full[0] - cut[0]), lost * of_failure, of_cut
