"""Accuracy with its interval, from one or several answers to every problem: the one implementation."""

from collections.abc import Hashable, Sequence
from statistics import fmean, variance
from typing import NamedTuple

from tinyzero_trl.metrics.intervals import NORMAL_QUANTILE, student_t_quantile, wilson_interval


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

    One answer per problem: Wilson's interval. With several, answers to one problem resemble each other and are no
    independent trials. Their variance is that over problems (Miller, "Adding error bars to evals", arXiv 2411.00640,
    section 2.2); a problem counts as much as it has answers (the linearised ratio of W. G. Cochran, "Sampling
    Techniques", 1977, section 6.3). The interval is Wilson's with as many independent trials as have that variance,
    at most all answers, fewer by (z/t)^2 because the variance is an estimate (Korn and Graubard, "Confidence
    intervals for proportions with small expected number of positive counts estimated from survey data", Survey
    Methodology 24, 1998). Where all problems have the same mean there is no variance to estimate, and a single trial
    per problem is the safe side.
    """
    means = [fmean(answers) for answers in outcomes]
    if len(set(means)) == 1 or all(len(answers) == 1 for answers in outcomes):
        return wilson_interval(sum(means), len(means))
    total, problems = sum(map(len, outcomes)), len(outcomes)
    overall = sum(map(sum, outcomes)) / total
    deviations = [
        len(answers) * problems / total * (mean - overall) for answers, mean in zip(outcomes, means, strict=True)
    ]
    trials = overall * (1 - overall) / (variance(deviations) / problems)
    trials = min(trials, total) * (NORMAL_QUANTILE / student_t_quantile(problems - 1)) ** 2
    return wilson_interval(overall * trials, trials)
