"""What would have happened under another window: product-limit estimates from completions that were cut.

A completion is followed from its first token until it ends, right or wrong, or until the window cuts it. A
cut is right-censoring, and an independent one: the window was fixed before the completion was sampled. Under
that condition the product-limit estimator (Kaplan and Meier 1958), in its form for competing ends (Aalen and
Johansen 1978), is consistent: the hazard at length l is the number of ends at l over the number of
completions followed up to l.

Three processes are followed over the length l:

* outcome: decided as a success or as a failure; its success branch is S(w) = P(success within w tokens);
* finishing: ended by the model; the area under its survival curve up to w is C(w) = E[min(length, w)];
* pairs of completions of one group: won when both have succeeded, lost when either has failed; the won branch is
  Q(w) = E_i[S_i(w)^2], because two completions of prompt i succeed independently given i.

S(w) - Q(w) = E_i[S_i(w) (1 - S_i(w))] then needs no S_i, which the few samples of a group would give poorly
and whose plug-in variance is biased. Without censoring it is the mean of G / (G - 1) x p_i (1 - p_i) over
groups of size G with success fraction p_i: the unbiased estimate of the variance of a Bernoulli variable.

A completion that was cut but already rewarded counts as a success by then, while its length stays censored.
Its answer may have come earlier; that is not known, and the longer window is the safe reading.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from tinyzero_trl.windows.outcomes import is_success
from tinyzero_trl.windows.policy import RolloutObservation


class Ends(NamedTuple):
    """How many completions, and pairs of completions of one group, reach an end at `length` tokens."""

    length: int
    successes: int = 0  # rewarded by now, cut ones included
    failures: int = 0  # finished without reward
    undecided: int = 0  # cut without reward
    cut_successes: int = 0  # those of `successes` that were cut: decided, not finished
    pairs_won: int = 0
    pairs_lost: int = 0
    pairs_undecided: int = 0


@dataclass(frozen=True, slots=True)
class RolloutTally:
    """One rollout as counts, ascending in length: all that the estimates need."""

    ends: tuple[Ends, ...]

    @classmethod
    def of(cls, observation: RolloutObservation, success_threshold: float) -> "RolloutTally":
        """Count one generation batch. Cuts are taken where they happened, be it short of the window."""
        columns = (observation.groups, observation.lengths, observation.rewards, observation.truncated)
        members = sorted(
            # At one length, ends come before cuts: who is cut at l was still followed at l.
            (group, length, not is_success(reward, success_threshold), bool(cut))
            for group, length, reward, cut in zip(*columns, strict=True)
        )
        groups = groupby(members, key=lambda member: member[0])
        return cls(_merged(end for _, group in groups for end in _ends_of_group(group)))

    @property
    def successes(self) -> int:
        """Rewarded completions."""
        return sum(end.successes for end in self.ends)

    def state(self) -> str:
        """Rows of numbers as one string: a checkpoint that is indented JSON stays readable."""
        return ";".join(" ".join(map(str, end)) for end in self.ends)

    @classmethod
    def from_state(cls, state: str) -> "RolloutTally":
        """Undo `state`."""
        return cls(tuple(Ends(*map(int, row.split())) for row in state.split(";") if row))


def _ends_of_group(members: Iterable[tuple[Any, int, bool, bool]]) -> list[Ends]:
    """One end per completion of a group, given as (group, length, unrewarded, cut), ascending.

    With k successes so far and a members that are neither failed nor undecided, choose(a, 2) - choose(k, 2) pairs are
    open. A success therefore wins k of them. A failure loses a - 1, and an undecided cut leaves a - 1 unseen.
    """
    group = list(members)
    alive, succeeded, ends = len(group), 0, []
    for _, length, unrewarded, cut in group:
        if not unrewarded:
            ends.append(Ends(length, successes=1, cut_successes=int(cut), pairs_won=succeeded))
            succeeded += 1
            continue
        alive -= 1
        undecided = Ends(length, undecided=1, pairs_undecided=alive)
        ends.append(undecided if cut else Ends(length, failures=1, pairs_lost=alive))
    return ends


def _merged(ends: Iterable[Ends]) -> tuple[Ends, ...]:
    """One row per length, ascending."""
    by_length = (list(rows) for _, rows in groupby(sorted(ends), key=itemgetter(0)))
    return tuple(
        rows[0] if len(rows) == 1 else Ends(rows[0].length, *map(sum, list(zip(*rows, strict=True))[1:]))
        for rows in by_length
    )


class Point(NamedTuple):
    """The estimates at one window."""

    window: int
    success: float  # S(w)
    pair_success: float  # Q(w)
    cost_tokens: float  # C(w)
    unfinished: float  # P(length > w)
    followed: int  # completions that were seen to go on beyond w

    @property
    def signal(self) -> float:
        """E_i[S_i(w) (1 - S_i(w))]; a difference of two estimates, so kept from falling below 0."""
        return max(self.success - self.pair_success, 0.0)


def estimate(tallies: Iterable[RolloutTally], windows: Iterable[int] = ()) -> list[Point]:
    """S, Q and C at every observed length and at `windows`, ascending.

    Beyond the longest follow-up nothing is known: the survivors are taken to run on without an end. Groups of
    one completion have no pairs; Q is then S^2, as if all prompts were alike.
    """
    ends = _merged([end for tally in tallies for end in tally.ends] + [Ends(window) for window in windows])
    at_risk = sum(end.successes + end.failures + end.undecided for end in ends)
    pairs = total_pairs = sum(end.pairs_won + end.pairs_lost + end.pairs_undecided for end in ends)
    undecided = unfinished = open_pairs = 1.0
    success = pair_success = cost_tokens = 0.0
    points, previous = [], 0
    for end in ends:
        cost_tokens += unfinished * (end.length - previous)
        previous = end.length
        success += undecided * _share(end.successes, at_risk)
        undecided *= 1 - _share(end.successes + end.failures, at_risk)
        unfinished *= 1 - _share(end.successes - end.cut_successes + end.failures, at_risk)
        pair_success += open_pairs * _share(end.pairs_won, pairs)
        open_pairs *= 1 - _share(end.pairs_won + end.pairs_lost, pairs)
        at_risk -= end.successes + end.failures + end.undecided
        pairs -= end.pairs_won + end.pairs_lost + end.pairs_undecided
        both = pair_success if total_pairs else success * success
        points.append(Point(end.length, success, both, cost_tokens, unfinished, at_risk))
    return points


def _share(events: int, at_risk: int) -> float:
    return events / at_risk if at_risk else 0.0
