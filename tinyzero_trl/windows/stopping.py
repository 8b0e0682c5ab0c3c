"""When a group should stop: optimal stopping by backward induction over the ends of the stages.

At the end of a stage a group of G completions has s successes, f failures and u = G - s - f unfinished ones. Stopped
there, its gradient explains part of the full rollout's (`fidelity`). Going on costs tokens, and leads to another state
at the next end. With a price for tokens, the best that a group can do from a state is

    V(s, f) = max(explained if stopped, E[V(s', f')] - price x E[tokens of the next stage]).

The expectations are over the kinds of prompts that may be behind the state (`kinds`). The rule is: go on where the
second term is at least the first.

Price. The rule that explains most per token charges each token what a token earns on average under that very rule
(the marginal value theorem, Charnov 1976). It may give up many successes that come late. So the price is lowered until
the successes that are lost by stopping are at most `slack` of all. A higher price never lets a group go on that a lower
one stops.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import mul
from typing import NamedTuple

import numpy as np

from tinyzero_trl.windows.fidelity import Gain, explained
from tinyzero_trl.windows.group_states import Floats, group_states, powers
from tinyzero_trl.windows.kinds import PromptKinds

_MOST_PRICES, _FIRST_STRIDE, _PRECISION = 16, 1.25, 0.02
_TIE = 1e-9


class Expected(NamedTuple):
    """Of a group under a rule, from its first token on."""

    explained: float
    tokens: float
    successes: float  # by the end of the group
    successes_lost: float  # of completions that the rule cuts


@dataclass(frozen=True, eq=False)
class Rule:
    """What going on is worth, by stage end and state, and what is to be expected of a group from its start."""

    size: int
    margins: Floats  # (S, N); nobody asks at the last of the S stage ends
    late: Floats  # (S, N)
    expected: Expected

    def margin(self, stage: int, successes: int, failures: int) -> float:
        """What a group gains by going on at the end of stage 0, 1, and so on, its tokens paid; negative if it loses."""
        return float(self.margins[stage, group_states(self.size).index[successes, failures]])

    def successes_to_come(self, stage: int, successes: int, failures: int) -> float:
        """Successes that a group would lose if it stopped at the end of stage 0, 1, and so on."""
        return float(self.late[stage, group_states(self.size).index[successes, failures]])

    def goes_on(self, stage: int, successes: int, failures: int) -> bool:
        """Whether a group goes on at the end of stage 0, 1, and so on."""
        return successes + failures < self.size and self.margin(stage, successes, failures) >= -_TIE


class StoppingProblem:
    """What does not depend on the knowledge of a prompt: groups of one size, their stages and kinds.

    Args:
        kinds: fitted kinds of prompts.
        ends: ends of the stages in tokens, ascending; the last is the longest window.
        size: completions of a group, G.
        gain: what counts as gain.
    """

    def __init__(self, kinds: PromptKinds, ends: Sequence[int], size: int, gain: Gain) -> None:
        self.size = size
        self._states = states = group_states(size)
        success, failure = np.array(kinds.success).T, np.array(kinds.failure).T  # (S, K)
        on = np.maximum(0.0, 1 - success - failure)
        bounds = np.array((0, *ends), dtype=float)[:, None]
        widths = np.diff(bounds, axis=0)
        # A completion that ends in a stage ends in its middle, on average.
        self._tokens = widths * (1 - (success + failure) / 2)
        self._ways = states.chances_of_ways(success, failure, on)
        # At the start and at each stage end, (S + 1, K):
        unfinished = _from_start(np.cumprod(on, axis=0), 1.0)
        ending = unfinished[:-1] * success, unfinished[:-1] * failure
        won, lost = (_from_start(np.cumsum(each, axis=0), 0.0) for each in ending)
        self._by_end = won, lost, unfinished
        self._late = np.minimum(1.0, _ratio(won[-1] - won, unfinished))
        self._further = states.chances_of_further(self._late)
        self._weights = np.ones((*won.shape, 3))
        if gain.by_tokens:  # mean tokens of the completions that have succeeded, that have failed, and that are cut
            tokens = (_from_start(np.cumsum(each * (bounds[:-1] + widths / 2), axis=0), 0.0) for each in ending)
            means = map(_ratio, tokens, (won, lost))
            self._weights = np.stack((*means, np.broadcast_to(bounds, won.shape)), axis=-1)
        self._explained = _explained_by_further(size, gain)
        self._situations: dict[tuple[float, ...], Situation] = {}

    def situation(self, prior: Sequence[float]) -> "Situation":
        """The problem for a prompt of which the probability of each kind, (K,), is known; worked out once for each."""
        known = tuple(prior)
        if known not in self._situations:
            self._situations[known] = self._situation(np.array(known))
        return self._situations[known]

    def rule(self, prior: Sequence[float], price: float) -> Rule:
        """The best rule for such a prompt at `price`, see `Situation.solve`."""
        return self.situation(prior).solve(price)

    def _situation(self, prior: Floats) -> "Situation":
        states, kinds = self._states, self._posterior(prior)
        further = np.einsum("enk,enxk->enx", kinds, self._further)
        terms = np.einsum("enx,nxo->eno", further, self._explained)
        return Situation(
            self.size,
            stopped=np.einsum("eno,enk,eko->en", terms, kinds, self._weights, optimize=True),
            late=states.unfinished * np.einsum("enk,ek->en", kinds, self._late),
            tokens=states.unfinished * np.einsum("enk,ek->en", kinds[:-1], self._tokens),
            chances=[states.chances_of_steps(*each) for each in zip(kinds[:-1], self._ways, strict=True)],
        )

    def _posterior(self, prior: Floats) -> Floats:
        """Probability of each kind at each stage end and in each state, (S + 1, N, K)."""
        states, (won, lost, on) = self._states, self._by_end
        weights = prior * powers(won, states.won) * powers(lost, states.lost) * powers(on, states.unfinished)
        totals = weights.sum(axis=-1, keepdims=True)
        return np.where(totals > 0, _ratio(weights, totals), prior)


class Situation:
    """A stopping problem with what is known of the prompt; `solve` finds the best rule for a price, once for each.

    Args:
        size: completions of a group.
        stopped: explained if a group stops, at the start and at each stage end and in each state, (S + 1, N).
        late: successes to come of its unfinished completions, (S + 1, N).
        tokens: expected in the next stage, (S, N).
        chances: of each step of the next stage, (T,), S times.
    """

    def __init__(self, size: int, *, stopped: Floats, late: Floats, tokens: Floats, chances: Sequence[Floats]) -> None:
        self._size, self._stopped, self._late, self._tokens, self._chances = size, stopped, late, tokens, chances
        self._rules: dict[float, Rule] = {}

    def solve(self, price: float) -> Rule:
        """The best rule at `price` in explained units per token; in the first stage every group is sampled."""
        if price not in self._rules:
            self._rules[price] = self._solved(price)
        return self._rules[price]

    def _solved(self, price: float) -> Rule:
        states = group_states(self._size)
        if_stopped = np.stack((self._stopped, np.zeros_like(self._stopped), self._late), axis=1)  # (S + 1, 3, N)
        margins = np.zeros_like(self._late)
        best = if_stopped[-1]  # explained, tokens to come, and successes lost, of each state
        for place in reversed(range(len(self._chances))):
            going_on = np.stack([states.mean_after(self._chances[place], figure) for figure in best])
            going_on[1] += self._tokens[place]
            margins[place] = going_on[0] - price * going_on[1] - self._stopped[place]
            goes_on = (margins[place] >= -_TIE) & (states.unfinished > 0) | (place == 0)
            best = np.where(goes_on, going_on, if_stopped[place])
        explained_in_all, tokens, successes_lost = best[:, 0].tolist()
        expected = Expected(explained_in_all, tokens, float(self._late[0, 0]), successes_lost)
        return Rule(self._size, margins[1:], self._late[1:], expected)


def mean_expected(situations: Sequence[Situation], shares: Sequence[float], price: float) -> Expected:
    """What is to be expected of a group at a price of a token; `shares` of the groups are in each situation."""
    each = [situation.solve(price).expected for situation in situations]
    return Expected(*(sum(map(mul, shares, figure)) for figure in zip(*each, strict=True)))


def best_price(
    situations: Sequence[Situation], shares: Sequence[float], slack: float, near: float | None = None
) -> float:
    """The price of a token at which the rule explains most per token, among those that lose few successes.

    A price is low enough where the successes lost are within `slack`, and where a token earns at least the price. Both
    hold below some price and nowhere above it, so that one search finds it. What a token earns under any rule is a
    lower bound of the best price (Dinkelbach 1967), and the next one to try.

    Args:
        situations: what is known of a prompt in each of several cases, such as its label.
        shares: of the prompts, how many are in each case.
        slack: most successes that may be lost, as a share of all, in [0, 1).
        near: where to begin, such as the price of the last rollout.
    """
    low, high, price, earned, stride = 0.0, math.inf, near or 0.0, 0.0, _FIRST_STRIDE
    for _ in range(_MOST_PRICES):
        now = mean_expected(situations, shares, price)
        earned = max(earned, now.explained / max(now.tokens, 1.0))
        if now.successes_lost <= slack * now.successes and price * now.tokens <= now.explained + _TIE:
            low = price
        else:
            high = price
        if earned <= low * (1 + _TIE) or high <= low * (1 + _PRECISION):
            break
        if low > 0 and high == math.inf:
            price, stride = min(earned, low * stride), stride * stride
        elif earned < high:
            price = earned
        elif low > 0:
            price = math.sqrt(low * high)
        else:
            price, stride = high / stride, stride * stride  # which may become infinite, and the price 0
    return low


@lru_cache
def _explained_by_further(size: int, gain: Gain) -> Floats:
    """`explained` of every state by further successes, (N, G + 1, 3); 0 where so many cannot follow."""
    states = group_states(size)
    terms = np.zeros((len(states.won), size + 1, 3))
    for state, (won, lost) in enumerate(zip(states.won.tolist(), states.lost.tolist(), strict=True)):
        for further in range(size - won - lost + 1):
            terms[state, further] = explained(won, lost, further, size, gain)
    return terms


def _from_start(by_stage: Floats, start: float) -> Floats:
    """Figures by stage end, (S, K), with those at the start before them, (S + 1, K)."""
    return np.vstack((np.full_like(by_stage[:1], start), by_stage))


def _ratio(above: Floats, below: Floats) -> Floats:
    """The quotient; 0 where it is not defined."""
    return np.divide(above, below, out=np.zeros(np.broadcast_shapes(above.shape, below.shape)), where=below > 0)
