"""The estimates behind `signal`: exact where nothing is cut, right on average where much is."""

import math
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from window_learners import Learner

from tests.support.windows_histories import Wanted, batches, observed
from tinyzero_trl.windows import RolloutObservation
from tinyzero_trl.windows.signal import most_signal_per_token
from tinyzero_trl.windows.survival import Point, RolloutTally, estimate

FOREVER = 10_000


def points_of(*observations: RolloutObservation, windows: tuple[int, ...] = ()) -> dict[int, Point]:
    tallies = [RolloutTally.of(observation, 1.0) for observation in observations]
    return {point.window: point for point in estimate(tallies, windows)}


@settings(max_examples=300, deadline=None)
@given(st.lists(batches.filter(len), min_size=1, max_size=4), st.integers(1, 310))
def test_without_censoring_every_estimate_is_the_plain_average(history: list[list[Wanted]], window: int) -> None:
    points = points_of(*(observed(0, FOREVER, batch) for batch in history), windows=(window,))
    everyone = [wanted for batch in history for wanted in batch]

    def fits(wanted: Wanted) -> bool:
        return wanted.right and (wanted.length or FOREVER) <= window

    pairs = [
        fits(one) and fits(other)
        for batch in history
        for one, other in combinations(batch, 2)
        if one.group == other.group
    ]
    success = fmean(map(fits, everyone))
    point = points[window]
    assert point.success == pytest.approx(success, abs=1e-9)
    assert point.pair_success == pytest.approx(fmean(pairs) if pairs else success**2, abs=1e-9)
    assert point.cost_tokens == pytest.approx(fmean(min(w.length or FOREVER, window) for w in everyone), abs=1e-9)
    longer = [(w.length or FOREVER) > window for w in everyone]
    assert point.unfinished == pytest.approx(fmean(longer), abs=1e-9)
    assert point.followed == sum(longer)


def test_signal_is_the_unbiased_variance_of_a_group() -> None:
    right = [True, True, True, False, True, False, False, False]  # groups of 4: 3 and 1 successes
    batch = [Wanted(5, success, index // 4) for index, success in enumerate(right)]
    expected = fmean(4 / 3 * p * (1 - p) for p in (0.75, 0.25))
    assert points_of(observed(0, 99, batch))[5].signal == pytest.approx(expected)


def test_a_hand_computed_product_limit() -> None:
    """Lengths 3 right, 5 cut, 5 wrong, 7 right, 9 cut: at risk 5, then 4 (the cut at 5 included), then 2."""
    cut_at_five = observed(0, 5, [Wanted(3, True, 0), Wanted(None, True, 1), Wanted(5, False, 2)])
    cut_at_nine = observed(1, 9, [Wanted(7, True, 0), Wanted(None, False, 1)])
    points = points_of(cut_at_five, cut_at_nine)
    survival = [1, 4 / 5, 4 / 5 * 3 / 4, 4 / 5 * 3 / 4 * 1 / 2]
    assert [points[length].unfinished for length in (3, 5, 7, 9)] == pytest.approx(survival[1:] + survival[3:])
    assert points[7].success == points[9].success == pytest.approx(1 / 5 + survival[2] * 1 / 2)
    assert points[9].cost_tokens == pytest.approx(3 + 2 * survival[1] + 2 * survival[2] + 2 * survival[3])
    assert [points[length].followed for length in (3, 5, 7, 9)] == [4, 2, 1, 0]


def test_hand_computed_pairs_under_censoring() -> None:
    """One group: right at 2, right at 4, wrong at 6, cut at 8. Six pairs; at 4 one is won; at 6 three are lost."""
    group = [Wanted(2, True), Wanted(4, True), Wanted(6, False), Wanted(None, False)]
    points = points_of(observed(0, 8, group))
    assert [points[length].pair_success for length in (2, 4, 6, 8)] == pytest.approx([0, 1 / 6, 1 / 6, 1 / 6])
    # A second group, cut at 3 after one success, was followed for six pairs at 2 and leaves them all unseen.
    other = observed(1, 3, [Wanted(2, True, 0), *[Wanted(None, True, 0)] * 3])
    assert points_of(observed(0, 8, group), other)[4].pair_success == pytest.approx(1 / 6)


def test_a_rewarded_completion_that_was_cut_counts_as_success_but_stays_unfinished() -> None:
    cut_after_its_answer = RolloutObservation(0, 50, [50, 20], [1.0, 0.0], [True, False], [0, 0])
    point = points_of(cut_after_its_answer, windows=(100,))[100]
    assert (point.success, point.unfinished, point.cost_tokens) == (0.5, 0.5, 60.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(batches, st.integers(1, 310)), min_size=1, max_size=6))
def test_estimates_are_probabilities_and_monotone(rollouts: list[tuple[list[Wanted], int]]) -> None:
    points = list(points_of(*(observed(0, window, batch) for batch, window in rollouts), windows=(1, 400)).values())
    for earlier, later in pairwise(points):
        assert earlier.window < later.window
        assert earlier.success <= later.success <= 1 + 1e-9
        assert earlier.pair_success <= later.pair_success + 1e-9 <= 1 + 2e-9
        assert earlier.cost_tokens <= later.cost_tokens
        assert earlier.unfinished >= later.unfinished >= -1e-9


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(batches, st.integers(1, 310)), min_size=1, max_size=6), st.lists(st.floats(0, 0.99), min_size=2)
)
def test_more_slack_never_asks_for_a_longer_window(
    rollouts: list[tuple[list[Wanted], int]], slacks: list[float]
) -> None:
    points = list(points_of(*(observed(0, window, batch) for batch, window in rollouts), windows=(1, 400)).values())
    chosen = [most_signal_per_token(points, slack) for slack in sorted(slacks)]
    assert [point.window for point in chosen] == sorted((point.window for point in chosen), reverse=True)
    for slack, point in zip(sorted(slacks), chosen, strict=True):
        assert point.success >= (1 - slack) * points[-1].success - 1e-9


@settings(max_examples=100, deadline=None)
@given(batches)
def test_a_tally_survives_its_state(batch: list[Wanted]) -> None:
    tally = RolloutTally.of(observed(0, 100, batch), 1.0)
    assert RolloutTally.from_state(tally.state()) == tally


LEARNERS = {
    "middling": dict(success=0.7, success_tokens=300, failure_tokens=400, rambling=0.2),
    "long": dict(success=0.5, success_tokens=600, failure_tokens=500, rambling=0.1),
    "rambling": dict(success=0.85, success_tokens=150, failure_tokens=300, rambling=0.5),
}


def sample(name: str, share: float, prompts: int, seed: int) -> tuple[Any, ...]:
    """24 rollouts of a known learner, one in twelve at full length, the others at a share of the best window."""
    learner = Learner(**LEARNERS[name])
    truth = learner.truth(2048)
    best = truth.best_window(20, 0.02)
    generator = np.random.default_rng(seed)
    windows = [2048 if step % 12 == 0 else int(share * best) for step in range(24)]
    rollouts = [learner.rollout(step, window, prompts, 8, generator) for step, window in enumerate(windows)]
    return truth, best, rollouts


@pytest.mark.parametrize("name", LEARNERS)
def test_success_at_the_maximum_is_known_from_censored_rollouts(name: str) -> None:
    """Within 3 points of the truth, where counting successes is not."""
    for seed in range(4):
        truth, _, rollouts = sample(name, 0.6, 64, seed)
        full = points_of(*rollouts, windows=(2048,))[2048]
        assert full.success == pytest.approx(truth.success[-1], abs=0.03)
        naive = fmean(reward for rollout in rollouts for reward in rollout.rewards)
        assert abs(naive - truth.success[-1]) > 0.05


@pytest.mark.parametrize("name", LEARNERS)
def test_the_best_window_is_found_from_censored_rollouts(name: str) -> None:
    """Within 10 % of the optimum under the true distributions, run from below it or at it."""
    for share in (0.7, 1.0):
        errors = []
        for seed in range(5):
            _, best, rollouts = sample(name, share, 64, seed)
            points = points_of(*rollouts, windows=(20, 2048))
            allowed = [point for window, point in points.items() if 20 <= window <= 2048]
            errors.append(math.log(most_signal_per_token(allowed, 0.02).window / best))
        assert abs(fmean(errors)) < math.log(1.1)
        assert sorted(map(abs, errors))[2] < math.log(1.1)  # the median run
