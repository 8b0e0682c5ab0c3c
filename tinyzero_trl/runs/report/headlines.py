"""The tiles at the top of a report: the accuracy that was reached, and what it took, in words."""

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from tinyzero_trl.metrics import Interval
from tinyzero_trl.runs.records import counted
from tinyzero_trl.runs.report.compare import Outcome, accuracy_curve
from tinyzero_trl.runs.report.formats import change, count, duration, points
from tinyzero_trl.runs.report.run_groups import RunGroup


class Tile(NamedTuple):
    """A figure in large print, and what it says."""

    number: str
    text: str


def tiles_of_one(outcome: Outcome, group: RunGroup) -> list[Tile]:
    """First accuracy and cost in words; then the cost in figures."""
    before = sum(accuracy_curve(run).accuracy[0] for run in group.runs.values()) / len(group.runs)
    after, tokens, time = outcome.final_acc.mean, count(outcome.tokens), duration(outcome.elapsed_s)
    text = (
        f"Held-out accuracy went from {before:.1%} {_first_time(group)} to {after:.1%}, by "
        f"{100 * (after - before):+z.1f} points. That took {tokens} rollout tokens and {time} of training."
    )
    if outcome.not_compared:
        text += f" But {'; '.join(outcome.not_compared)}."
    return [Tile(f"{before:.0%} → {after:.0%}", text), Tile(tokens, "rollout tokens"), Tile(time, "of training")]


def _first_time(group: RunGroup) -> str:
    """When accuracy was measured for the first time."""
    steps = {run.judged_evals[0]["step"] for run in group.runs.values()}
    if steps == {0}:
        return "before the training"
    return f"at step {steps.pop()}" if len(steps) == 1 else "at the first evaluation"


def tiles_of_comparison(outcomes: Sequence[Outcome], baseline: str) -> list[Tile]:
    """First the best group against the baseline, then a tile for each group that can be compared.

    Args:
        outcomes: those of all groups, the baseline's among them.
        baseline: the baseline's label.
    """
    others = [outcome for outcome in outcomes if outcome.label != baseline and outcome.paired_seeds]
    found = [_comparison(_best(others), baseline)] if others else []
    return [*found, *(_tile(outcome, baseline) for outcome in others)]


def _best(outcomes: Sequence[Outcome]) -> Outcome:
    """Of those that reach the baseline's accuracy with every seed the one that takes the fewest tokens to it.

    Where none does: the fewest tokens among those whose accuracy may be as high as the baseline's, or else the one that
    gains most accuracy on it.
    """
    if reach := [(each.tokens_to_target_ratio.mean, each) for each in outcomes if each.tokens_to_target_ratio]:
        return min(reach, key=itemgetter(0))[1]
    level = [
        (each.tokens_ratio.mean, each)
        for each in outcomes
        if each.tokens_ratio and each.acc_difference and _highest(each.acc_difference) >= 0
    ]
    if level:
        return min(level, key=itemgetter(0))[1]
    gains = [(each.acc_difference.mean, each) for each in outcomes if each.acc_difference]
    return max(gains, key=itemgetter(0))[1]


def _highest(interval: Interval) -> float:
    return interval.mean if interval.high is None else interval.high


def _comparison(outcome: Outcome, baseline: str) -> Tile:
    difference, means = points(outcome.acc_difference), outcome.paired_means
    assert difference is not None and means is not None, "paired seeds have both"
    ratio, (ours, theirs) = outcome.tokens_ratio, means
    number = f"{ratio.mean:.2f} x the tokens" if ratio else f"{count(ours.tokens)} tokens"
    text = (
        f"With {outcome.label}, a run reached {ours.accuracy:.1%} held-out accuracy and took {count(ours.tokens)} "
        f"rollout tokens. With {baseline}, it reached {theirs.accuracy:.1%} and took {count(theirs.tokens)} tokens. "
        f"The difference is {difference.mean:+z.1f} points"
    )
    if difference.low is not None:
        text += f", between {difference.low:+z.1f} and {difference.high:+z.1f} (95 % interval)"
    return Tile(number, f"{text}. These are means over the {counted(outcome.paired_seeds, 'seed')} that both have.")


def _tile(outcome: Outcome, baseline: str) -> Tile:
    ratio, difference = outcome.tokens_to_target_ratio, points(outcome.acc_difference)
    if ratio is not None:
        text = f"rollout tokens for {outcome.label} to reach the accuracy of {baseline}"
        if ratio.low is not None and ratio.high is not None:
            text += f" (95 % interval: {_between(ratio.low, ratio.high, fewer=ratio.mean <= 1)})"
        return Tile(" ".join(change(ratio.mean)), text)
    if difference and outcome.tokens_ratio:
        text = f"the tokens of {baseline} with {outcome.label}, at {difference.mean:+z.1f} points of accuracy"
        if difference.low is not None:
            text += f" (95 % interval: {difference.low:+z.1f} to {difference.high:+z.1f})"
        return Tile(f"{outcome.tokens_ratio.mean:.2f} x", text)
    missed = f"of {outcome.label} reach the accuracy of {baseline}"
    return Tile(f"{outcome.reached_target} of {outcome.paired_seeds} seeds", missed)


def _between(low: float, high: float, *, fewer: bool) -> str:
    """The bounds of a ratio in words, in the direction of its mean: "11% to 40% more", or "15% more to 30% fewer"."""
    (first, its_word), (second, word) = (change(bound) for bound in ((high, low) if fewer else (low, high)))
    return f"{first} to {second} {word}" if its_word == word else f"{first} {its_word} to {second} {word}"
