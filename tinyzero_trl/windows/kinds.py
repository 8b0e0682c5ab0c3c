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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinyzero_trl.windows.group_states import Floats

KINDS = 8

_KIND_SHRINKAGE = 0.5
_LABEL_SHRINKAGE = 0.5
_STAGE_SHRINKAGE = 0.1
_FIRST_ITERATIONS, _FURTHER_ITERATIONS = 30, 4
_LEAST_PART = 1e-9  # of a group that counts for a kind
_LEAST_PROBABILITY = 1e-12  # in a logarithm


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
        self._log_chances = np.zeros((0, stages, 3))  # [kind][stage] of success, failure, and neither
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
        seen = SeenGroups(groups, weights, self.stages)
        self._climb(seen)
        if also_afresh:
            other = PromptKinds(self.stages)
            other._climb(seen)
            if other.log_likelihood(seen) > self.log_likelihood(seen):
                self.restore(other.state())

    def log_likelihood(self, seen: "SeenGroups") -> float:
        """Of the groups under these kinds and the shares of their labels, without constants."""
        scores = self._scores(seen)
        highest = scores.max(axis=1)
        return float((seen.weights * (highest + np.log(np.exp(scores - highest[:, None]).sum(axis=1)))).sum())

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
        counts = np.array(tuple(seen))
        likelihoods = np.einsum("so,kso->k", counts, self._log_chances[:, : len(counts)])
        scores = _logs(np.array(prior)) + power * likelihoods
        shares = np.exp(scores - scores.max())
        return (shares / shares.sum()).tolist()

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
        self._take(np.array(state["success"]), np.array(state["failure"]))
        self.shares = list(state["shares"])
        self.label_shares = {label: list(shares) for label, shares in state["label_shares"].items()}

    def _climb(self, seen: "SeenGroups") -> None:
        """Take as many steps of expectation and maximisation as a first or a further fit has."""
        iterations = _FURTHER_ITERATIONS if self.is_fitted else _FIRST_ITERATIONS
        if not self.is_fitted:
            self._maximise(seen, _sorted_into_kinds(seen.groups))
        for _ in range(iterations):
            self._maximise(seen, self._kinds_of(seen))

    def _take(self, success: Floats, failure: Floats) -> None:
        """Probabilities of success and failure, each (K, S)."""
        self.success, self.failure = success.tolist(), failure.tolist()
        self._log_chances = _logs(np.stack((success, failure, 1 - success - failure), axis=-1))

    def _kinds_of(self, seen: "SeenGroups") -> Floats:
        """The expectation step: probability of each kind for each group, (M, K)."""
        scores = self._scores(seen)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    def _scores(self, seen: "SeenGroups") -> Floats:
        """Logarithm of the joint probability of each kind and what was seen, (M, K)."""
        log_priors = _logs(np.array([self.prior(label) for label in seen.labels]))
        return log_priors[seen.label] + np.einsum("mso,kso->mk", seen.counts, self._log_chances)

    def _maximise(self, seen: "SeenGroups", kinds: Floats) -> None:
        """The maximisation step, shrunk toward all completions and all labels."""
        parts = seen.weights[:, None] * kinds
        counts = np.einsum("mk,mso->oks", np.where(parts < _LEAST_PART, 0.0, parts), seen.counts)
        at_risk = counts.sum(axis=0)
        self._take(*(_shrunk(events, at_risk) for events in counts[:2]))
        by_label = np.zeros((len(seen.labels), KINDS))
        np.add.at(by_label, seen.label, parts)
        shares = by_label.sum(axis=0) + 1 / KINDS
        shares /= shares.sum()
        by_label += _LABEL_SHRINKAGE * shares
        by_label /= by_label.sum(axis=1, keepdims=True)
        self.shares = shares.tolist()
        self.label_shares = dict(zip(seen.labels, by_label.tolist(), strict=True))


class SeenGroups:
    """M groups as arrays.

    Attributes:
        groups: the groups themselves.
        counts: (M, S, 3), as `StageCount`; 0 where a group was not followed.
        weights: (M,).
        labels: the names of labels.
        label: the place of each group's label among them, (M,).
    """

    def __init__(self, groups: Sequence[GroupRecord], weights: Sequence[float], stages: int) -> None:
        self.groups = groups
        self.counts = np.zeros((len(groups), stages, 3))
        for place, group in enumerate(groups):
            self.counts[place, : len(group.stages)] = group.stages
        self.weights = np.array(weights)
        self.labels = sorted({group.label for group in groups})
        places = {label: place for place, label in enumerate(self.labels)}
        self.label = np.array([places[group.label] for group in groups])


def _shrunk(events: Floats, at_risk: Floats) -> Floats:
    """Probabilities, (K, S), shrunk to those of the kind's other stages, and these to those of all kinds."""
    pooled = events.sum() / at_risk.sum()
    risk_of_kind = at_risk.sum(axis=1, keepdims=True) + _KIND_SHRINKAGE
    anywhere = (events.sum(axis=1, keepdims=True) + _KIND_SHRINKAGE * pooled) / risk_of_kind
    return (events + _STAGE_SHRINKAGE * anywhere) / (at_risk + _STAGE_SHRINKAGE)


def _sorted_into_kinds(groups: Sequence[GroupRecord]) -> Floats:
    """Where the estimation starts, (M, K): equal shares of the groups, by their success, then by their length."""

    def rank(group: GroupRecord) -> tuple[float, float]:
        successes = sum(stage.successes for stage in group.stages)
        return successes / group.size, -sum(stage.unfinished for stage in group.stages) / group.size

    order = sorted(range(len(groups)), key=lambda place: (*rank(groups[place]), groups[place].state()))
    kinds = np.zeros((len(groups), KINDS))
    for position, place in enumerate(order):
        kinds[place, position * KINDS // len(order)] = 1.0
    return kinds


def _logs(values: Floats) -> Floats:
    return np.log(np.maximum(values, _LEAST_PROBABILITY))
