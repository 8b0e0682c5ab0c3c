"""What is remembered of groups: recent rollouts as counts by stage, and the past of prompts that may come again."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from tinyzero_trl.windows.kinds import GroupRecord, StageCount, stages_as_text, stages_from_text
from tinyzero_trl.windows.outcomes import is_success
from tinyzero_trl.windows.policy import RolloutObservation

Visit = tuple[StageCount, ...]
"""What happened to the group of a prompt, stage by stage."""

_MOST_PROMPTS = 1 << 15


def group_records(
    observation: RolloutObservation, ends: Sequence[int], success_threshold: float
) -> list[tuple[GroupRecord, str]]:
    """Every group of a rollout with its prompt's key ("" for none), in the same order however completions are ordered.

    A group counts as followed through the stages that end before any of its completions is cut, the end of the cut
    included. Groups that are cut in the first stage are left out: they show nothing.
    """
    rows = len(observation.lengths)
    columns = (
        observation.groups,
        observation.lengths,
        (is_success(reward, success_threshold) for reward in observation.rewards),
        map(bool, observation.truncated),
        observation.labels or [""] * rows,
        observation.prompt_keys or [""] * rows,
    )
    table = sorted(zip(*columns, strict=True), key=lambda row: row[:4])
    records = []
    for _, members in groupby(table, key=lambda row: row[0]):
        group = list(members)
        ended = [(length, won) for _, length, won, cut, *_ in group if not cut or (won and length >= ends[-1])]
        cuts = [length for _, length, won, cut, *_ in group if cut]
        followed = [end for end in ends if end <= min(cuts, default=ends[-1])]
        label, key = group[0][4:]
        if followed:
            stages = _stages(ended, len(group), followed)
            records.append((GroupRecord(label, stages), key))
    return sorted(records, key=lambda record: (record[0].label, record[0].stages, record[1]))


def _stages(ended: Sequence[tuple[int, bool]], size: int, ends: Sequence[int]) -> tuple[StageCount, ...]:
    """Counts by stage from the lengths and outcomes of the completions that ended."""
    result, start, unfinished = [], -1, size
    for end in ends:
        outcomes = [won for length, won in ended if start < length <= end]
        unfinished -= len(outcomes)
        result.append(StageCount(sum(outcomes), len(outcomes) - sum(outcomes), unfinished))
        start = end
    return tuple(result)


def as_text(visits: Iterable[Visit]) -> list[str]:
    """Visits as JSON."""
    return [stages_as_text(visit) for visit in visits]


def from_text(visits: Iterable[str]) -> list[Visit]:
    """Undo `as_text`."""
    return [stages_from_text(visit) for visit in visits]


class RecentGroups:
    """The groups of the newest rollouts; older ones count less.

    Args:
        rollouts: how many are remembered.
    """

    def __init__(self, rollouts: int) -> None:
        self._half_life = rollouts / 3
        self._rollouts: deque[list[GroupRecord]] = deque(maxlen=rollouts)

    def add(self, groups: Iterable[GroupRecord]) -> None:
        """Remember a rollout."""
        self._rollouts.append(list(groups))

    def weighted(self) -> tuple[list[GroupRecord], list[float]]:
        """All groups and how much each counts, the newest ones 1."""
        groups, weights = [], []
        for age, rollout in enumerate(reversed(self._rollouts)):
            groups += rollout
            weights += [0.5 ** (age / self._half_life)] * len(rollout)
        return groups, weights

    def is_enough(self, stages: int, min_groups: int, min_samples: int) -> bool:
        """Whether groups, their successes and their longest completions are known well enough to stop any.

        Args:
            stages: of a rollout at the longest window.
            min_groups: groups that were followed to the end.
            min_samples: successes, and completions that were followed into the last stage.
        """
        groups = [group for rollout in self._rollouts for group in rollout]
        to_the_end = [group for group in groups if len(group.stages) == stages or not group.stages[-1].unfinished]
        successes = sum(stage.successes for group in groups for stage in group.stages)
        tail = sum(sum(group.stages[-1]) for group in groups if len(group.stages) == stages)
        ever_long = any(group.stages[-1].unfinished for group in groups)
        return len(to_the_end) >= min_groups and successes >= min_samples and (tail >= min_samples or not ever_long)

    def state(self) -> list[Any]:
        """As JSON."""
        return [[group.state() for group in rollout] for rollout in self._rollouts]

    def restore(self, state: Iterable[Any]) -> None:
        """Undo `state`; a shorter memory keeps the newest."""
        self._rollouts.clear()
        self._rollouts.extend([GroupRecord.from_state(group) for group in rollout] for rollout in state)


class PromptPasts:
    """What visits of each prompt showed: the last one, and the one before that was followed longest.

    So a prompt that stops early time after time is still known by the visit that showed why. The prompts that were not
    met for longest are forgotten first.
    """

    def __init__(self) -> None:
        self._pasts: OrderedDict[str, list[Visit]] = OrderedDict()

    def add(self, key: str, stages: Visit) -> None:
        """Remember a visit."""
        earlier = self._pasts.pop(key, [])
        self._pasts[key] = [stages, *([max(earlier, key=len)] if earlier else [])]  # of equals, the newest
        while len(self._pasts) > _MOST_PROMPTS:
            self._pasts.popitem(last=False)

    def of(self, key: str) -> list[Visit]:
        """The remembered visits, the newest first; none for a prompt that is not known."""
        return self._pasts.get(key, [])

    def state(self) -> list[list[str]]:
        """As JSON, in the order in which prompts were met: key and visits. Trainer sorts the names of a mapping."""
        return [[key, *as_text(visits)] for key, visits in self._pasts.items()]

    def restore(self, state: Iterable[Sequence[str]] | Mapping[str, Sequence[str]]) -> None:
        """Undo `state`; a mapping of keys to visits is that of an earlier version."""
        rows = ([key, *visits] for key, visits in state.items()) if isinstance(state, Mapping) else state
        self._pasts = OrderedDict((key, from_text(visits)) for key, *visits in rows)
