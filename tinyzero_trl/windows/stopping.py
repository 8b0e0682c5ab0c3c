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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from operator import itemgetter, mul
from typing import NamedTuple

from tinyzero_trl.windows.fidelity import Gain, explained
from tinyzero_trl.windows.kinds import PromptKinds

_MOST_PRICES, _FIRST_STRIDE, _PRECISION = 16, 1.25, 0.02
_TIE = 1e-9

_Weights = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
_Select = Callable[[Sequence[float]], Sequence[float]]


class Expected(NamedTuple):
    """Of a group under a rule, from its first token on."""

    explained: float
    tokens: float
    successes: float  # by the end of the group
    successes_lost: float  # of completions that the rule cuts


@dataclass(frozen=True)
class Rule:
    """What going on is worth, by stage and state, and what is to be expected of a group from its start."""

    size: int
    margins: tuple[tuple[float, ...], ...]
    late: tuple[tuple[float, ...], ...]
    expected: Expected

    def margin(self, stage: int, successes: int, failures: int) -> float:
        """What a group gains by going on at the end of stage 0, 1, and so on, its tokens paid; negative if it loses."""
        return self.margins[stage][_index(self.size)[successes, failures]]

    def successes_to_come(self, stage: int, successes: int, failures: int) -> float:
        """Successes that a group would lose if it stopped at the end of stage 0, 1, and so on."""
        return self.late[stage][_index(self.size)[successes, failures]]

    def goes_on(self, stage: int, successes: int, failures: int) -> bool:
        """Whether a group goes on at the end of stage 0, 1, and so on."""
        return successes + failures < self.size and self.margin(stage, successes, failures) >= -_TIE


@dataclass(frozen=True)
class _Position:
    """One stage end, or the start: figures of every state there."""

    stopped: list[float]  # explained if the group stops
    late: list[float]  # successes to come of the unfinished completions
    tokens: list[float]  # expected in the next stage
    chances: list[list[float]]  # of every way in which the next stage may end


class StoppingProblem:
    """What does not depend on the knowledge of a prompt: groups of one size, their stages and kinds.

    Args:
        kinds: fitted kinds of prompts.
        ends: ends of the stages in tokens, ascending; the last is the longest window.
        size: completions of a group, G.
        gain: what counts as gain.
    """

    def __init__(self, kinds: PromptKinds, ends: Sequence[int], size: int, gain: Gain) -> None:
        self.size, self.positions = size, len(ends) + 1
        rows = list(zip(kinds.success, kinds.failure, strict=True))
        widths = [end - start for start, end in zip((0, *ends), ends, strict=False)]
        # A completion that ends in a stage ends in its middle, on average.
        self._tokens = [[width * (1 - (a[k] + b[k]) / 2) for a, b in rows] for k, width in enumerate(widths)]
        self._by_end = [list(ends_of_kind) for ends_of_kind in zip(*(_cumulative(a, b) for a, b in rows), strict=True)]
        self._late = [
            [_late(kind, last) for kind, last in zip(now, self._by_end[-1], strict=True)] for now in self._by_end
        ]
        self._ways = [  # [stage][unfinished][way][kind]
            [_by_kind(_multinomial(u, a[k], b[k]) for a, b in rows) for u in range(size + 1)] for k in range(len(ends))
        ]
        self._explained = [  # [state][of successes, failures, completions that are cut][further successes]
            _by_kind(explained(s, f, further, size, gain) for further in range(size - s - f + 1))
            for s, f in _states(size)
        ]
        self._weights = _weights(rows, ends) if gain.by_tokens else [((1.0,) * len(rows),) * 3] * self.positions
        self._situations: dict[tuple[float, ...], Situation] = {}

    def situation(self, prior: Sequence[float]) -> "Situation":
        """The problem for a prompt of which the probability of each kind, (K,), is known; worked out once for each."""
        known = tuple(prior)
        if known not in self._situations:
            positions = [self._position(place, known) for place in range(self.positions)]
            self._situations[known] = Situation(self.size, positions)
        return self._situations[known]

    def rule(self, prior: Sequence[float], price: float) -> Rule:
        """The best rule for such a prompt at `price`, see `Situation.solve`."""
        return self.situation(prior).solve(price)

    def _position(self, place: int, prior: Sequence[float]) -> _Position:
        is_last = place == self.positions - 1
        late = self._late[place]
        futures = [_by_kind(_binomial(u, chance) for chance in late) for u in range(self.size + 1)]
        position = _Position([], [], [], [])
        for state, (successes, failures) in enumerate(_states(self.size)):
            unfinished = self.size - successes - failures
            kinds = self._posterior(prior, place, successes, failures, unfinished)
            further = [sum(map(mul, kinds, future)) for future in futures[unfinished]]
            weights = [sum(map(mul, kinds, weight)) for weight in self._weights[place]]
            terms = [sum(map(mul, further, term)) for term in self._explained[state]]
            position.stopped.append(sum(map(mul, weights, terms)))
            position.late.append(unfinished * sum(map(mul, kinds, late)))
            if not is_last:
                position.tokens.append(unfinished * sum(map(mul, kinds, self._tokens[place])))
                position.chances.append([sum(map(mul, kinds, way)) for way in self._ways[place][unfinished]])
        return position

    def _posterior(self, prior: Sequence[float], place: int, won: int, lost: int, unfinished: int) -> list[float]:
        weights = [
            share * a**won * b**lost * on**unfinished
            for share, (a, b, on) in zip(prior, self._by_end[place], strict=True)
        ]
        total = sum(weights)
        return [weight / total for weight in weights] if total > 0 else list(prior)


class Situation:
    """A stopping problem with what is known of the prompt; `solve` finds the best rule for a price, once for each."""

    def __init__(self, size: int, positions: Sequence[_Position]) -> None:
        self._size, self._positions = size, positions
        self._late = tuple(tuple(position.late) for position in positions[1:-1])
        self._rules: dict[float, Rule] = {}

    def solve(self, price: float) -> Rule:
        """The best rule at `price` in explained units per token; in the first stage every group is sampled."""
        if price not in self._rules:
            self._rules[price] = self._solved(price)
        return self._rules[price]

    def _solved(self, price: float) -> Rule:
        last = self._positions[-1]
        gain, tokens, lost = last.stopped, [0.0] * len(last.stopped), last.late
        margins: list[tuple[float, ...]] = []
        for place in range(len(self._positions) - 2, -1, -1):
            here, columns, margin = self._positions[place], [], []
            for state, (chances, after) in enumerate(zip(here.chances, _followers(self._size), strict=True)):
                further_gain = sum(map(mul, chances, after(gain)))
                further_tokens = sum(map(mul, chances, after(tokens))) + here.tokens[state]
                margin.append(further_gain - price * further_tokens - here.stopped[state])
                if place == 0 or (len(chances) > 1 and margin[-1] >= -_TIE):
                    columns.append((further_gain, further_tokens, sum(map(mul, chances, after(lost)))))
                else:
                    columns.append((here.stopped[state], 0.0, here.late[state]))
            gain, tokens, lost = (list(column) for column in zip(*columns, strict=True))
            margins.append(tuple(margin))
        start = _index(self._size)[0, 0]
        expected = Expected(gain[start], tokens[start], self._positions[0].late[start], lost[start])
        return Rule(self._size, tuple(reversed(margins[:-1])), self._late, expected)


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
def _states(size: int) -> tuple[tuple[int, int], ...]:
    """Every (successes, failures) of a group."""
    return tuple((won, lost) for won in range(size + 1) for lost in range(size + 1 - won))


@lru_cache
def _index(size: int) -> dict[tuple[int, int], int]:
    return {state: place for place, state in enumerate(_states(size))}


@lru_cache
def _followers(size: int) -> tuple[_Select, ...]:
    """For every state what takes, from a column, those to which a stage may lead, as `_states(unfinished)` are."""
    index = _index(size)
    followers = (
        [index[won + more_won, lost + more_lost] for more_won, more_lost in _states(size - won - lost)]
        for won, lost in _states(size)
    )
    return tuple(
        itemgetter(*after) if len(after) > 1 else itemgetter(slice(after[0], after[0] + 1)) for after in followers
    )


def _multinomial(count: int, success: float, failure: float) -> list[float]:
    """Probability of each of `_states(count)` after a stage that `count` unfinished completions begin."""
    on = max(0.0, 1 - success - failure)
    return [
        comb(count, won) * comb(count - won, lost) * success**won * failure**lost * on ** (count - won - lost)
        for won, lost in _states(count)
    ]


def _binomial(count: int, chance: float) -> list[float]:
    return [comb(count, won) * chance**won * (1 - chance) ** (count - won) for won in range(count + 1)]


def _by_kind(rows: Iterable[Sequence[float]]) -> list[tuple[float, ...]]:
    """Rows by kind become rows of one probability for each kind."""
    return list(zip(*rows, strict=True))


def _cumulative(success: Sequence[float], failure: Sequence[float]) -> list[tuple[float, float, float]]:
    """Probability of having succeeded, failed, or not ended by each stage end, the start included."""
    won, lost, on = 0.0, 0.0, 1.0
    result = [(won, lost, on)]
    for a, b in zip(success, failure, strict=True):
        won, lost, on = won + on * a, lost + on * b, max(0.0, on * (1 - a - b))
        result.append((won, lost, on))
    return result


def _late(now: tuple[float, float, float], last: tuple[float, float, float]) -> float:
    """Probability that a completion, unfinished now, succeeds by the last stage end."""
    return min(1.0, (last[0] - now[0]) / now[2]) if now[2] > 0 else 0.0


def _weights(rows: Sequence[tuple[list[float], list[float]]], ends: Sequence[int]) -> list[_Weights]:
    """Mean tokens of the completions that have succeeded, that have failed, and that are cut, by stage end and kind."""
    positions: list[_Weights] = [((0.0,) * len(rows),) * 3]
    by_kind = []
    for chances in rows:
        on, counts, sums, of_kind = 1.0, [0.0, 0.0], [0.0, 0.0], []
        for place, (start, end) in enumerate(zip((0, *ends), ends, strict=False)):
            for outcome, chance in enumerate(each[place] for each in chances):
                counts[outcome] += on * chance
                sums[outcome] += on * chance * (start + end) / 2
            on *= max(0.0, 1 - chances[0][place] - chances[1][place])
            means = [total / count if count > 0 else 0.0 for total, count in zip(sums, counts, strict=True)]
            of_kind.append((*means, float(end)))
        by_kind.append(of_kind)
    for at_end in zip(*by_kind, strict=True):
        of_success, of_failure, of_cut = zip(*at_end, strict=True)
        positions.append((of_success, of_failure, of_cut))
    return positions
