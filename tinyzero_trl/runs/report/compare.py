"""What each run group costs and earns against a baseline, paired over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyzero_trl.metrics import Interval, mean_interval, paired_difference, paired_ratio
from tinyzero_trl.runs.records import Run
from tinyzero_trl.runs.report.comparable import evaluation_differences, same_devices
from tinyzero_trl.runs.report.run_groups import RunGroup


@dataclass(frozen=True)
class Curve:
    """Held-out accuracy of one run: (E,) arrays over its evaluations in which answers were judged.

    `whole_tokens` and `whole_elapsed_s` are those of the last evaluation, judged or not. Seconds are training time
    without evaluation, so that evaluating often does not look slow.
    """

    tokens: NDArray[np.float64]
    elapsed_s: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    whole_tokens: float
    whole_elapsed_s: float


class Means(NamedTuple):
    """Means over the paired seeds of a group or of the baseline: final accuracy, and tokens of a whole run."""

    accuracy: float
    tokens: float


@dataclass(frozen=True)
class Outcome:
    """One run group against the baseline. A comparison is None where there is nothing to compare.

    The target of a seed is the final accuracy of the baseline's run with that seed; `reached_target` counts
    the seeds that arrive there, and `began_at_target` those of them that were there in their first evaluation. Costs to
    target and their ratios are None unless every paired seed arrives: leaving out those that fail would flatter the
    group. Nor is there a ratio where a run or its baseline was there in its first evaluation: what it seems to have
    taken depends on when that was. `tokens_ratio` and `time_ratio` are those of whole runs. `final_acc`, `tokens` and
    `elapsed_s` are over all seeds; `paired_means` has the group's and the baseline's over the paired ones.
    Where the two, or seeds of one of them, were evaluated on other problems or in another way, `not_compared` says how
    they differ, and no seeds are paired. Times are not compared where `same_devices` is
    False: devices or the number of processes differ.
    """

    name: str
    label: str
    seeds: int
    final_acc: Interval
    acc_difference: Interval | None
    tokens_ratio: Interval | None
    time_ratio: Interval | None
    tokens_to_target_ratio: Interval | None
    time_to_target_ratio: Interval | None
    tokens_to_target: float | None
    time_to_target_s: float | None
    paired_seeds: int
    paired_means: tuple[Means, Means] | None
    reached_target: int
    began_at_target: int
    tokens: float
    elapsed_s: float
    not_compared: tuple[str, ...]
    same_devices: bool


def accuracy_curve(run: Run) -> Curve:
    """The run's held-out accuracy over rollout tokens and over training time."""
    steps, elapsed = run.series("time/elapsed_s")

    def seconds(line: Mapping[str, Any]) -> float:
        done = np.searchsorted(steps, line["step"], side="right")
        known = elapsed[done - 1] if done else 0.0
        return float(line.get("time/elapsed_s", known if len(steps) else line["time_s"]))

    lines, last = run.judged_evals, run.evals[-1:]
    return Curve(
        tokens=np.array([line["tokens"] for line in lines], dtype=np.float64),
        elapsed_s=np.array([seconds(line) for line in lines], dtype=np.float64),
        accuracy=np.array([line["eval/acc"] for line in lines], dtype=np.float64),
        whole_tokens=sum(float(line["tokens"]) for line in last),
        whole_elapsed_s=sum(map(seconds, last)),
    )


def cost_to_reach(target: float, cost: NDArray[np.float64], accuracy: NDArray[np.float64]) -> float | None:
    """The cost at which accuracy first reaches `target`, linear between evaluations; None if never."""
    reached = np.flatnonzero(accuracy >= target)
    if not len(reached):
        return None
    first = int(reached[0])
    if first == 0:
        return float(cost[0])
    share = (target - accuracy[first - 1]) / (accuracy[first] - accuracy[first - 1])
    return float(cost[first - 1] + share * (cost[first] - cost[first - 1]))


def compare(groups: Sequence[RunGroup], baseline: RunGroup) -> list[Outcome]:
    """Every group's outcome against the baseline, itself included, in the order given."""
    reference = {seed: accuracy_curve(run) for seed, run in baseline.runs.items()}
    return [
        _outcome(group, reference, tuple(evaluation_differences(group, baseline)), same_devices(group, baseline))
        for group in groups
    ]


def _outcome(
    group: RunGroup, reference: Mapping[int, Curve], differences: tuple[str, ...], times_compare: bool
) -> Outcome:
    curves = {seed: accuracy_curve(run) for seed, run in group.runs.items()}
    pairs = [(curve, reference[seed]) for seed, curve in curves.items() if not differences and seed in reference]
    ours = [float(curve.accuracy[-1]) for curve, _ in pairs]
    targets = [float(baseline.accuracy[-1]) for _, baseline in pairs]
    tokens = _costs(pairs, lambda curve: curve.tokens)
    elapsed = _costs(pairs, lambda curve: curve.elapsed_s)
    began = [
        (curve.accuracy[0] >= target, baseline.accuracy[0] >= target)
        for (curve, baseline), target in zip(pairs, targets, strict=True)
    ]
    tokens_to_target_ratio = None if any(map(any, began)) else _ratio(tokens)
    return Outcome(
        name=group.name,
        label=group.label,
        seeds=len(curves),
        final_acc=final_accuracy(list(curves.values())),
        acc_difference=paired_difference(ours, targets) if pairs else None,
        tokens_ratio=_ratio([(curve.whole_tokens, other.whole_tokens) for curve, other in pairs]),
        time_ratio=_ratio([(curve.whole_elapsed_s, other.whole_elapsed_s) for curve, other in pairs if times_compare]),
        tokens_to_target_ratio=tokens_to_target_ratio,
        time_to_target_ratio=_ratio(elapsed) if tokens_to_target_ratio and times_compare else None,
        tokens_to_target=_mean_if_all(tokens),
        time_to_target_s=_mean_if_all(elapsed),
        paired_seeds=len(pairs),
        paired_means=(_means([curve for curve, _ in pairs]), _means([other for _, other in pairs])) if pairs else None,
        reached_target=sum(cost is not None for cost, _ in tokens),
        began_at_target=sum(bool(ours_began) for ours_began, _ in began),
        tokens=float(np.mean([curve.whole_tokens for curve in curves.values()])),
        elapsed_s=float(np.mean([curve.whole_elapsed_s for curve in curves.values()])),
        not_compared=differences,
        same_devices=times_compare,
    )


def _means(curves: Sequence[Curve]) -> Means:
    accuracy = float(np.mean([curve.accuracy[-1] for curve in curves]))
    return Means(accuracy, float(np.mean([curve.whole_tokens for curve in curves])))


def final_accuracy(curves: Sequence[Curve]) -> Interval:
    """Mean accuracy at the ends of runs; its bounds are within 0 and 1."""
    accuracy = mean_interval([float(curve.accuracy[-1]) for curve in curves])
    if accuracy.low is None or accuracy.high is None:
        return accuracy
    return accuracy._replace(low=max(0.0, accuracy.low), high=min(1.0, accuracy.high))


def _costs(
    pairs: Sequence[tuple[Curve, Curve]], axis: Callable[[Curve], NDArray[np.float64]]
) -> list[tuple[float | None, float]]:
    """For every pair what it costs each of the two to reach the baseline's final accuracy."""
    costs = []
    for ours, baseline in pairs:
        target = float(baseline.accuracy[-1])
        own = cost_to_reach(target, axis(baseline), baseline.accuracy)
        assert own is not None, "a curve reaches its own last value"
        costs.append((cost_to_reach(target, axis(ours), ours.accuracy), own))
    return costs


def _ratio(costs: Sequence[tuple[float | None, float]]) -> Interval | None:
    if not costs or not all(map(all, costs)):  # nor does 0 make a ratio
        return None
    return paired_ratio(*zip(*costs, strict=True))


def _mean_if_all(costs: Sequence[tuple[float | None, float]]) -> float | None:
    reached = [ours for ours, _ in costs if ours is not None]
    return float(np.mean(reached)) if costs and len(reached) == len(costs) else None
