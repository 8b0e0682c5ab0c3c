"""What rollouts have shown of prompts: the kinds that there are, and which of them a prompt may be of."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from tinyzero_trl.windows.group_config import GroupConfig
from tinyzero_trl.windows.group_memory import PromptPasts, RecentGroups, Visit, as_text, from_text, group_records
from tinyzero_trl.windows.kinds import GroupRecord, PromptKinds
from tinyzero_trl.windows.policy import RolloutObservation

Prior = tuple[float, ...]
"""Probability of each kind, (K,), for a prompt whose group has not been sampled yet."""

_POWER_OF_THE_PAST = 0.5  # of the last visit; its square of the one before
_PRIOR_STEPS = 4  # what a prompt's past tells is rounded to quarters, so that prompts share a solution
_ROLLOUTS_THAT_STAND_FOR_THE_NEXT = 8
_MOST_PRIORS = 24


class GroupKnowledge:
    """The groups of the newest rollouts, the kinds that explain them, and the past of prompts that come again.

    Args:
        config: the fields of the policy.
        ends: ends of the stages in tokens.
    """

    def __init__(self, config: GroupConfig, ends: Sequence[int]) -> None:
        self.kinds = PromptKinds(len(ends))
        self._config, self._ends = config, tuple(ends)
        self._recent = RecentGroups(config.memory_rollouts)
        self._pasts = PromptPasts()
        self._prompts: deque[list[tuple[str, list[Visit]]]] = deque(maxlen=_ROLLOUTS_THAT_STAND_FOR_THE_NEXT)

    @property
    def is_enough(self) -> bool:
        """Whether so much is remembered that groups may stop."""
        return self._recent.is_enough(len(self._ends), self._config.min_groups, self._config.min_samples)

    def prior(self, label: str, prompt_key: str) -> Prior:
        """By the label of a prompt, and by what the prompt showed in the past."""
        return self._prior(label, self._pasts.of(_name(label, prompt_key)))

    def recent_priors(self) -> tuple[list[Prior], list[float]]:
        """What was known of the prompts of recent rollouts before each, and the share of each, most frequent first.

        Where many different things were known, those that are alike are taken together, as their mean.
        """
        counts = Counter(self._prior(*prompt) for rollout in self._prompts for prompt in rollout)
        shares = [(prior, count / counts.total()) for prior, count in counts.items()]
        if len(shares) > _MOST_PRIORS:
            shares = _taken_together(shares)
        shares.sort(key=lambda each: (-each[1], each[0]))
        return [prior for prior, _ in shares], [share for _, share in shares]

    def learn(self, observation: RolloutObservation, *, also_afresh: bool) -> list[GroupRecord]:
        """Take in a rollout, and return its groups; none where it shows nothing.

        Args:
            observation: the rollout.
            also_afresh: see `PromptKinds.fit`.
        """
        records = group_records(observation, self._ends, self._config.success_threshold)
        groups = [record for record, _ in records]
        if not groups:
            return []
        self._recent.add(groups)
        self.kinds.fit(*self._recent.weighted(), also_afresh=also_afresh)
        self._prompts.append([(record.label, self._pasts.of(_name(record.label, key))) for record, key in records])
        for record, key in records:
            if key and self._config.prompt_memory:
                self._pasts.add(_name(record.label, key), record.stages)
        return groups

    def tokens_saved(self, groups: Sequence[GroupRecord]) -> float:
        """What the unfinished completions of stopped groups would have taken, by the kinds that explain each group."""
        rest = self.kinds.remaining_tokens(self._ends)
        saved = 0.0
        for group in groups:
            kinds = self.kinds.posterior(self.kinds.prior(group.label), group.stages)
            stage, unfinished = len(group.stages) - 1, group.stages[-1].unfinished
            saved += unfinished * sum(share * tokens[stage] for share, tokens in zip(kinds, rest, strict=True))
        return saved

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "memory": self._recent.state(),
            "prompts": self._pasts.state(),
            "knowledge": [[[label, as_text(visits)] for label, visits in rollout] for rollout in self._prompts],
            "kinds": self.kinds.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Undo `state`."""
        self._recent.restore(state["memory"])
        self._pasts.restore(state["prompts"])
        self._prompts.clear()
        self._prompts.extend([(label, from_text(visits)) for label, visits in each] for each in state["knowledge"])
        self.kinds.restore(state["kinds"])

    def _prior(self, label: str, visits: Sequence[Visit]) -> Prior:
        prior = self.kinds.prior(label)
        if not visits:
            return tuple(prior)
        for place, visit in enumerate(visits, start=1):
            prior = self.kinds.posterior(prior, visit, _POWER_OF_THE_PAST**place)
        steps = [round(_PRIOR_STEPS * share) for share in prior]
        steps = steps if any(steps) else [int(share == max(prior)) for share in prior]
        return tuple(count / sum(steps) for count in steps)


def _name(label: str, prompt_key: str) -> str:
    """By what a prompt is remembered: one text may stand for another task under another label."""
    return f"{prompt_key} {label}" if label else prompt_key


def _taken_together(shares: Sequence[tuple[Prior, float]]) -> list[tuple[Prior, float]]:
    """At most `_MOST_PRIORS` means of neighbours, in the order of the likeliest kind and its probability."""

    def likeness(each: tuple[Prior, float]) -> tuple[int, float, Prior]:
        prior, _ = each
        likeliest = max(range(len(prior)), key=prior.__getitem__)
        return likeliest, prior[likeliest], prior

    parts: list[list[tuple[Prior, float]]] = [[] for _ in range(_MOST_PRIORS)]
    passed = 0.0
    for prior, share in sorted(shares, key=likeness):
        middle = passed + share / 2
        parts[min(int(middle * _MOST_PRIORS), _MOST_PRIORS - 1)].append((prior, share))
        passed += share
    return [_mean(part) for part in parts if part]


def _mean(part: Sequence[tuple[Prior, float]]) -> tuple[Prior, float]:
    total = sum(share for _, share in part)
    kinds = zip(*(prior for prior, _ in part), strict=True)
    weights = [share / total for _, share in part]
    return tuple(sum(weight * prior for weight, prior in zip(weights, kind, strict=True)) for kind in kinds), total
