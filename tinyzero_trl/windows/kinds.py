"""Prompts come in kinds: what a group of completions shows of its prompt, and what it will do if it goes on.

Model. A rollout is followed in stages 0 .. S-1, which end at given lengths. A completion of a prompt of kind c that is
unfinished when stage k begins succeeds in it with probability a[c][k], fails with b[c][k], and else goes on. Given the
kind, the completions of a group are independent; the kinds differ, and so a group's own completions tell which kind its
prompt is of. A kind may be hopeless, easy, or late. The probabilities of the kinds depend on the prompt's label.

Estimates are by expectation and maximisation (Dempster, Laird and Rubin 1977). A group that was stopped is followed to
its stop and no further. Whether it was stopped depends on what was seen of it and on a coin alone: its tail is missing
at random (Rubin 1976), and the likelihood of what was seen needs no weights to be right. That holds as far as the kinds
describe the prompts; the groups that a coin lets go on show the tails of those that stop.

Shrinkage. With few completions a kind's probabilities lean on those of all completions, and a label's shares of the
kinds on those of all labels: by `_KIND_SHRINKAGE` completions and `_LABEL_SHRINKAGE` groups.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

KINDS = 8

_KIND_SHRINKAGE = 0.5
_LABEL_SHRINKAGE = 0.5
_STAGE_SHRINKAGE = 0.1
_FIRST_ITERATIONS, _FURTHER_ITERATIONS = 30, 4


class StageCount(NamedTuple):
    """What happened to a group's completions in one stage."""

    successes: int
    failures: int
    unfinished: int  # at the end of the stage


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A group as it is remembered: its label, and what happened in every stage through which it was followed."""

    label: str
    stages: tuple[StageCount, ...]

    @property
    def size(self) -> int:
        """Completions of the group."""
        return sum(self.stages[0])

    def state(self) -> list[Any]:
        """As JSON: the label, and the counts of all stages as one string."""
        return [self.label, stages_as_text(self.stages)]

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> "GroupRecord":
        """Undo `state`."""
        label, counts = state
        return cls(label, stages_from_text(counts))


def stages_as_text(stages: Iterable[StageCount]) -> str:
    """Counts of stages as one string of numbers, three for each stage."""
    return " ".join(str(count) for stage in stages for count in stage)


def stages_from_text(text: str) -> tuple[StageCount, ...]:
    """Undo `stages_as_text`."""
    numbers = iter(map(int, text.split()))
    return tuple(map(StageCount, numbers, numbers, numbers))


class PromptKinds:
    """The kinds of prompts: per kind and stage the probabilities of success and failure, per label the shares.

    Args:
        stages: number of stages, S.
    """

    def __init__(self, stages: int) -> None:
        self.stages = stages
        self.success: list[list[float]] = []  # [kind][stage], given that a completion is unfinished before the stage
        self.failure: list[list[float]] = []
        self.shares: list[float] = []
        self.label_shares: dict[str, list[float]] = {}

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` has seen a group."""
        return bool(self.shares)

    def fit(self, groups: Sequence[GroupRecord], weights: Sequence[float], *, also_afresh: bool = False) -> None:
        """Learn from remembered groups; a further fit starts from the last one, and so follows a slow drift.

        Args:
            groups: remembered groups, each followed through one stage at least.
            weights: how much each counts, in (0, 1].
            also_afresh: also begin anew, and keep what explains the groups better. A further fit may not find its way
                out of kinds that have merged.
        """
        if not groups:
            return
        iterations = _FURTHER_ITERATIONS if self.is_fitted else _FIRST_ITERATIONS
        if not self.is_fitted:
            self._maximise(groups, weights, _sorted_into_kinds(groups))
        for _ in range(iterations):
            self._maximise(groups, weights, self._kinds_of(groups))
        if also_afresh:
            other = PromptKinds(self.stages)
            other.fit(groups, weights)
            if other.log_likelihood(groups, weights) > self.log_likelihood(groups, weights):
                self.restore(other.state())

    def log_likelihood(self, groups: Sequence[GroupRecord], weights: Sequence[float]) -> float:
        """Of the groups under these kinds and the shares of their labels, without constants."""
        return math.fsum(
            weight * _log_of_sum(scores) for weight, scores in zip(weights, self._scores(groups), strict=True)
        )

    def prior(self, label: str) -> list[float]:
        """Probability of each kind for a prompt of this label; of a label never seen, that of all prompts."""
        return self.label_shares.get(label, self.shares)

    def posterior(self, prior: Sequence[float], seen: Iterable[StageCount], power: float = 1.0) -> list[float]:
        """Probability of each kind, (K,), given a prior and what happened in successive stages.

        Args:
            prior: (K,).
            seen: what happened in stage 0, 1, and so on.
            power: exponent of the likelihood; below 1 for evidence that may be out of date.
        """
        seen = tuple(seen)
        scores = [
            _log(share) + power * _log_likelihood(seen, success, failure)
            for share, success, failure in zip(prior, self.success, self.failure, strict=True)
        ]
        return _normalised_exp(scores)

    def remaining_tokens(self, ends: Sequence[int]) -> list[list[float]]:
        """Expected tokens beyond each stage end, (K, S), of a completion that is unfinished there."""
        result = []
        for success, failure in zip(self.success, self.failure, strict=True):
            rest = [0.0]
            for stage in range(self.stages - 1, 0, -1):
                ended = success[stage] + failure[stage]
                rest.append((ends[stage] - ends[stage - 1]) * (1 - ended / 2) + (1 - ended) * rest[-1])
            result.append(rest[::-1])
        return result

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "success": self.success,
            "failure": self.failure,
            "shares": self.shares,
            "label_shares": self.label_shares,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Undo `state`."""
        self.success, self.failure = [list(row) for row in state["success"]], [list(row) for row in state["failure"]]
        self.shares = list(state["shares"])
        self.label_shares = {label: list(shares) for label, shares in state["label_shares"].items()}

    def _kinds_of(self, groups: Sequence[GroupRecord]) -> list[list[float]]:
        """The expectation step: probability of each kind for each group."""
        return [_normalised_exp(scores) for scores in self._scores(groups)]

    def _scores(self, groups: Sequence[GroupRecord]) -> list[list[float]]:
        """Logarithm of the joint probability of each kind and what was seen, for each group."""
        log_success, log_failure, log_on = self._logarithms()
        log_prior = {label: [_log(share) for share in self.prior(label)] for label in _labels(groups)}
        result = []
        for group in groups:
            events = [(stage, *count) for stage, count in enumerate(group.stages)]
            scores = list(log_prior[group.label])
            for kind, (won, lost, on) in enumerate(zip(log_success, log_failure, log_on, strict=True)):
                scores[kind] += sum(s * won[k] + f * lost[k] + u * on[k] for k, s, f, u in events)
            result.append(scores)
        return result

    def _logarithms(self) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
        on = [[1 - a - b for a, b in zip(*rows, strict=True)] for rows in zip(self.success, self.failure, strict=True)]
        return _logs(self.success), _logs(self.failure), _logs(on)

    def _maximise(
        self,
        groups: Sequence[GroupRecord],
        weights: Sequence[float],
        kinds: Sequence[Sequence[float]],
    ) -> None:
        """The maximisation step, shrunk toward all completions and all labels."""
        won, lost, at_risk = ([[0.0] * self.stages for _ in range(KINDS)] for _ in range(3))
        by_label = {label: [0.0] * KINDS for label in _labels(groups)}
        for group, weight, shares in zip(groups, weights, kinds, strict=True):
            counts = by_label[group.label]
            for kind, share in enumerate(shares):
                part = weight * share
                counts[kind] += part
                if part < 1e-9:
                    continue
                for stage, (successes, failures, unfinished) in enumerate(group.stages):
                    won[kind][stage] += part * successes
                    lost[kind][stage] += part * failures
                    at_risk[kind][stage] += part * (successes + failures + unfinished)
        total = sum(map(sum, at_risk))
        of_all = [sum(map(sum, ends)) / total for ends in (won, lost)]
        self.success = [self._shrunk(*rows, of_all[0]) for rows in zip(won, at_risk, strict=True)]
        self.failure = [self._shrunk(*rows, of_all[1]) for rows in zip(lost, at_risk, strict=True)]
        totals = [sum(counts[kind] for counts in by_label.values()) for kind in range(KINDS)]
        self.shares = _proportions([total + 1 / KINDS for total in totals])
        self.label_shares = {
            label: _proportions(
                [count + _LABEL_SHRINKAGE * share for count, share in zip(counts, self.shares, strict=True)]
            )
            for label, counts in by_label.items()
        }

    def _shrunk(self, events: Sequence[float], at_risk: Sequence[float], pooled: float) -> list[float]:
        """Probabilities by stage of one kind, shrunk to those of its other stages, and these to those of all kinds."""
        anywhere = (sum(events) + _KIND_SHRINKAGE * pooled) / (sum(at_risk) + _KIND_SHRINKAGE)
        return [
            (count + _STAGE_SHRINKAGE * anywhere) / (risk + _STAGE_SHRINKAGE)
            for count, risk in zip(events, at_risk, strict=True)
        ]


def _sorted_into_kinds(groups: Sequence[GroupRecord]) -> list[list[float]]:
    """Where the estimation starts: equal shares of the groups, in the order of their success, then of their length."""

    def rank(group: GroupRecord) -> tuple[float, float]:
        successes = sum(stage.successes for stage in group.stages)
        return successes / group.size, -sum(stage.unfinished for stage in group.stages) / group.size

    order = sorted(range(len(groups)), key=lambda place: (*rank(groups[place]), groups[place].state()))
    kinds = [[0.0] * KINDS for _ in groups]
    for position, place in enumerate(order):
        kinds[place][position * KINDS // len(order)] = 1.0
    return kinds


def _log_likelihood(seen: Sequence[StageCount], success: Sequence[float], failure: Sequence[float]) -> float:
    return sum(
        s * _log(a) + f * _log(b) + u * _log(1 - a - b) for (s, f, u), a, b in zip(seen, success, failure, strict=False)
    )


def _log(value: float) -> float:
    return math.log(max(value, 1e-12))


def _logs(rows: Iterable[Iterable[float]]) -> list[list[float]]:
    return [[_log(value) for value in row] for row in rows]


def _log_of_sum(scores: Sequence[float]) -> float:
    highest = max(scores)
    return highest + math.log(math.fsum(math.exp(score - highest) for score in scores))


def _normalised_exp(scores: Sequence[float]) -> list[float]:
    highest = max(scores)
    return _proportions([math.exp(score - highest) for score in scores])


def _proportions(values: Sequence[float]) -> list[float]:
    total = math.fsum(values)
    return [value / total for value in values]


def _labels(groups: Iterable[GroupRecord]) -> list[str]:
    return sorted({group.label for group in groups})
