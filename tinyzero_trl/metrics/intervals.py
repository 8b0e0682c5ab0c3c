"""Uncertainty of accuracies and of comparisons over a handful of seeds. Standard library only."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

_CONFIDENCE = 0.95

NORMAL_QUANTILE = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
"""The z for which P(|Z| <= z) = 0.95 under the standard normal distribution."""


class Interval(NamedTuple):
    """A mean and the bounds of its 95 % confidence interval; no bounds where the samples show no spread."""

    mean: float
    low: float | None
    high: float | None


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a success probability, inside [0, 1] even for 0 or `trials` successes.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
    (1927), 209-212. Trials that depend on each other count as fewer: both numbers may be fractions.

    Raises:
        ValueError: if `trials` is not above 0, or `successes` is outside [0, `trials`].
    """
    if not trials > 0:
        raise ValueError(f"trials = {trials}: an interval needs at least one trial")
    if not 0 <= successes <= trials:
        raise ValueError(f"successes = {successes}: must lie between 0 and trials = {trials}")
    z = NORMAL_QUANTILE
    rate = successes / trials
    denominator = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / denominator
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / denominator
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of P(at least one of k samples is correct) from n samples of which c are correct.

    1 - C(n - c, k) / C(n, k), in exact integers. Source: Chen et al., "Evaluating large language models
    trained on code", arXiv 2107.03374, equation 1.

    Raises:
        ValueError: if `c` is outside [0, `n`] or `k` outside [1, `n`].
    """
    if not 0 <= c <= n:
        raise ValueError(f"c = {c}: the correct samples must lie between 0 and n = {n}")
    if not 1 <= k <= n:
        raise ValueError(f"k = {k}: must lie between 1 and the number of samples, n = {n}")
    total = math.comb(n, k)
    return (total - math.comb(n - c, k)) / total


def student_t_quantile(degrees: int) -> float:
    """The t for which P(|T| <= t) = 0.95 under Student's t with `degrees` degrees of freedom.

    For whole degrees of freedom the distribution function is a finite sum in the angle
    atan(t / sqrt(degrees)) (Abramowitz & Stegun 26.7.3 and 26.7.4). It grows with the angle, so
    that bisection inverts it to double precision.

    Raises:
        ValueError: if `degrees` < 1.
    """
    if degrees < 1:
        raise ValueError(f"degrees = {degrees}: Student's t needs at least one degree of freedom")
    low, high = 0.0, math.pi / 2
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_coverage(middle, degrees) < _CONFIDENCE else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _t_coverage(angle: float, degrees: int) -> float:
    """P(|T| <= sqrt(degrees) * tan(angle)), Abramowitz & Stegun 26.7.3 (odd degrees) and 26.7.4 (even)."""
    odd = degrees % 2 == 1
    term = math.sin(angle) * (math.cos(angle) if odd else 1.0)
    total = 0.0 if degrees == 1 else term
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    return (angle + total) * 2 / math.pi if odd else total


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean of independent samples and its 95 % Student-t interval: mean +- t * s / sqrt(n).

    A lone sample shows no spread, nor do several that are equal but for rounding: two runs that both end at 100 % do
    not say that every run would. There are no bounds then.

    Raises:
        ValueError: if `values` is empty.
    """
    if not values:
        raise ValueError("values = []: a mean needs at least one sample")
    mean = fmean(values)
    if math.isclose(min(values), max(values), rel_tol=1e-9, abs_tol=1e-12):
        return Interval(mean, None, None)
    half = student_t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def paired_difference(ours: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Mean of `ours[i] - baseline[i]` over seeds i, with its Student-t interval.

    Raises:
        ValueError: if the two are empty or differ in length.
    """
    return mean_interval([a - b for a, b in zip(ours, baseline, strict=True)])


def paired_ratio(ours: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Geometric mean of `ours[i] / baseline[i]` over seeds i, with a Student-t interval on the logarithms.

    On logarithms "twice" and "half" weigh the same, and no bound can fall below 0.

    Raises:
        ValueError: if the two are empty, differ in length, or hold a value that is not positive.
    """
    if any(value <= 0 for value in (*ours, *baseline)):
        raise ValueError(f"ours = {list(ours)}, baseline = {list(baseline)}: a ratio needs positive values")
    logs = [math.log(a) - math.log(b) for a, b in zip(ours, baseline, strict=True)]
    mean, low, high = mean_interval(logs)
    return Interval(math.exp(mean), *(None if bound is None else math.exp(bound) for bound in (low, high)))
