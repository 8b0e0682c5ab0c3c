"""Accuracy with its interval, from one or several answers to every problem: the one implementation."""

from collections.abc import Hashable, Sequence
from statistics import fmean
from typing import NamedTuple

from tinyzero_trl.metrics.intervals import mean_interval, wilson_interval


class Accuracy(NamedTuple):
    """The share of correct answers, its 95 % interval, and how many problems and answers it rests on."""

    mean: float
    low: float
    high: float
    problems: int
    answers: int


def accuracy(correct: Sequence[bool | None], problems: Sequence[Hashable]) -> Accuracy | None:
    """Accuracy of N answers, clustered by problem.

    Args:
        correct: whether each answer is correct, (N,); None where it was not judged, which leaves it out.
        problems: which problem each answer belongs to, (N,).

    Returns:
        None where no answer was judged.
    """
    outcomes = list(by_problem(correct, problems).values())
    if not outcomes:
        return None
    low, high = accuracy_interval(outcomes)
    answers = sum(map(len, outcomes))
    return Accuracy(sum(map(sum, outcomes)) / answers, low, high, len(outcomes), answers)


def by_problem(correct: Sequence[bool | None], problems: Sequence[Hashable]) -> dict[Hashable, list[bool]]:
    """The judged answers of every problem that has one, problems in the order of their first answer."""
    outcomes: dict[Hashable, list[bool]] = {}
    for outcome, problem in zip(correct, problems, strict=True):
        if outcome is not None:
            outcomes.setdefault(problem, []).append(outcome)
    return outcomes


def accuracy_interval(outcomes: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """The 95 % interval of the accuracy, from whether each answer of every problem is correct.

    One answer per problem: Wilson's interval. With several, answers to one problem resemble each other and are
    no independent trials, so the interval is Student's over problems (Miller, "Adding error bars to evals",
    arXiv 2411.00640, section 2.2), cut to [0, 1]. A problem counts as much as it has answers (the linearised
    ratio of W. G. Cochran, "Sampling Techniques", 1977, section 6.3). Where all problems have the same mean there
    is no spread to estimate from, and Wilson's interval with a single trial per problem is the safe side.
    """
    means = [fmean(answers) for answers in outcomes]
    if len(set(means)) == 1 or all(len(answers) == 1 for answers in outcomes):
        return wilson_interval(round(sum(means)), len(means))
    total = sum(map(len, outcomes))
    overall, answers_per_problem = sum(map(sum, outcomes)) / total, total / len(outcomes)
    scores = [
        overall + len(answers) / answers_per_problem * (mean - overall)
        for answers, mean in zip(outcomes, means, strict=True)
    ]
    _, low, high = mean_interval(scores)
    assert low is not None and high is not None, "two different means are at least two problems"
    return max(0.0, low), min(1.0, high)
