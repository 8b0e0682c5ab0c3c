"""The states of a group of completions, and the steps that a stage may make from one to another.

At the end of a stage a group of G completions has some successes, some failures, and u unfinished ones. A step is a
state and a way in which its unfinished completions end in the next stage, or do not. There are as many ways for u
completions as a group of u has states. In the shapes below there are N = (G + 1)(G + 2) / 2 states,
T = C(G + 4, 4) steps, W = C(G + 3, 3) ways of 0 to G completions, and K kinds of prompts.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import comb, factorial, prod

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class GroupStates:
    """Made by `group_states`.

    Attributes:
        won: successes of each state, (N,).
        lost: failures, (N,).
        unfinished: completions that have not ended, (N,).
        index: the place of the state with so many successes and failures, (G + 1, G + 1).
        first: the first step of each state, (N,); the steps of a state stand together.
        before: the state that a step leaves, (T,).
        after: the state to which a step leads, (T,).
        way: the way of a step, (T,).
        outcomes: how many completions succeed, fail and go on in each way, (W, 3).
    """

    won: Integers
    lost: Integers
    unfinished: Integers
    index: Integers
    first: Integers
    before: Integers
    after: Integers
    way: Integers
    outcomes: Integers

    def mean_after(self, chances: Floats, figure: Floats) -> Floats:
        """The expectation, (N,), of a figure of states, (N,), after a step whose probabilities are `chances`, (T,)."""
        return np.add.reduceat(chances * figure.take(self.after), self.first)

    def chances_of_ways(self, success: Floats, failure: Floats, on: Floats) -> Floats:
        """Multinomial probability of each way, (..., W, K); those of one completion are (..., K)."""
        won, lost, going_on = self.outcomes.T
        return self._orders_of_ways * powers(success, won) * powers(failure, lost) * powers(on, going_on)

    def chances_of_steps(self, kinds: Floats, ways: Floats) -> Floats:
        """Probability of each step, (T,), from that of each kind in a state, (N, K), and of each way, (W, K)."""
        chances = np.zeros(len(self.way))
        for kind, of_way in zip(kinds.T, ways.T, strict=True):
            chances += kind.take(self.before) * of_way.take(self.way)
        return chances

    def chances_of_further(self, success: Floats) -> Floats:
        """Binomial probability of 0 to G successes of the unfinished completions of a state, (..., N, G + 1, K)."""
        numbers = np.arange(len(self.index))
        rest = np.subtract.outer(self.unfinished, numbers).clip(0)
        fails = powers(1 - success, rest.ravel()).reshape(*success.shape[:-1], *rest.shape, -1)
        return self._orders_of_further * powers(success, numbers)[..., None, :, :] * fails

    @cached_property
    def _orders_of_ways(self) -> Floats:
        """In how many orders the completions of each way may end, (W, 1)."""
        return np.array([[factorial(sum(way)) / prod(map(factorial, way))] for way in self.outcomes.tolist()])

    @cached_property
    def _orders_of_further(self) -> Floats:
        """In how many orders 0 to G of the unfinished completions of each state may succeed, (N, G + 1, 1)."""
        numbers = range(len(self.index))
        orders = [[[comb(u, number)] for number in numbers] for u in self.unfinished.tolist()]
        return np.array(orders, dtype=float)


@lru_cache
def group_states(size: int) -> GroupStates:
    """Of a group of `size` completions; the first state is the start, where none has ended."""
    ways = [[(won, lost) for won in range(u + 1) for lost in range(u + 1 - won)] for u in range(size + 1)]
    outcomes = np.array([(won, lost, u - won - lost) for u, of_count in enumerate(ways) for won, lost in of_count])
    counts = np.array([len(of_count) for of_count in ways])
    won, lost = np.array(ways[size]).T
    unfinished = size - won - lost
    index = np.zeros((size + 1, size + 1), dtype=np.intp)
    index[won, lost] = np.arange(len(won))
    steps = counts[unfinished]
    first = np.cumsum(steps) - steps
    before = np.repeat(np.arange(len(won)), steps)
    way = (np.cumsum(counts) - counts)[unfinished[before]] + np.arange(len(before)) - first[before]
    after = index[won[before] + outcomes[way, 0], lost[before] + outcomes[way, 1]]
    return GroupStates(won, lost, unfinished, index, first, before, after, way, outcomes)


def powers(bases: Floats, exponents: Integers) -> Floats:
    """(..., E, K) of bases (..., K) and exponents (E,); 0 to the power of 0 is 1."""
    return bases[..., None, :] ** exponents[:, None]
