"""The parts of the decision per group: what counts as gain, kinds of prompts, and optimal stopping."""

import itertools
import math
import operator
import random
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyzero_trl.windows.fidelity import Gain, advantages, explained
from tinyzero_trl.windows.group_states import group_states
from tinyzero_trl.windows.kinds import KINDS, GroupRecord, PromptKinds, SeenGroups, StageCount
from tinyzero_trl.windows.step_cost import StepCost
from tinyzero_trl.windows.stopping import Expected, Rule, Situation, StoppingProblem, best_price, mean_expected

ENDS = (64, 128, 256)
BY_SEQUENCES = Gain(by_tokens=False, scaled=True)
some = settings(max_examples=60, deadline=None)
few = settings(max_examples=15, deadline=None)


@some
@given(st.integers(2, 9), st.data(), st.booleans())
def test_explained_is_what_the_cut_advantages_leave_of_the_full_ones(
    size: int, data: st.DataObject, scaled: bool
) -> None:
    won = data.draw(st.integers(0, size))
    lost = data.draw(st.integers(0, size - won))
    further = data.draw(st.integers(0, size - won - lost))
    full_rewards = [1.0] * (won + further) + [0.0] * (size - won - further)
    cut_rewards = [1.0] * won + [0.0] * (size - won)
    full, cut = as_trl(full_rewards, scaled), as_trl(cut_rewards, scaled)
    left = sum(a * a - (a - b) ** 2 for a, b in zip(full, cut, strict=True))
    assert sum(explained(won, lost, further, size, Gain(by_tokens=False, scaled=scaled))) == pytest.approx(
        left, abs=1e-6
    )
    assert left <= sum(a * a for a in full) + 1e-9


def as_trl(rewards: list[float], scaled: bool) -> list[float]:
    mean = sum(rewards) / len(rewards)
    spread = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1)) + 1e-4
    return [(reward - mean) / (spread if scaled else 1.0) for reward in rewards]


def test_a_group_that_gives_the_advantage_to_the_wrong_completions_explains_less_than_nothing() -> None:
    gain = Gain(by_tokens=False, scaled=True)
    assert sum(explained(1, 0, 6, 8, gain)) < 0 < sum(explained(1, 6, 0, 8, gain))
    assert sum(explained(0, 3, 2, 8, gain)) == 0  # a group that is not mixed where it is cut has no gradient


def kinds_of(*rows: tuple[list[float], list[float]], shares: list[float] | None = None) -> PromptKinds:
    """Kinds with given probabilities of success and failure by stage."""
    kinds = PromptKinds(len(ENDS))
    success, failure = zip(*rows, strict=True)
    shares = shares or [1 / len(rows)] * len(rows)
    kinds.restore({"success": success, "failure": failure, "shares": shares, "label_shares": {}})
    return kinds


EASY = ([0.5, 0.3, 0.0], [0.2, 0.2, 0.2])
HOPELESS = ([0.0, 0.0, 0.0], [0.1, 0.1, 0.1])
LATE = ([0.0, 0.1, 0.8], [0.0, 0.0, 0.1])

chance = st.floats(0, 0.5)
kind = st.tuples(st.lists(chance, min_size=3, max_size=3), st.lists(chance, min_size=3, max_size=3))
gains = st.builds(Gain, by_tokens=st.booleans(), scaled=st.booleans())


@few
@given(st.integers(1, 4), st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)), min_size=2, max_size=2), st.data())
def test_steps_are_as_likely_as_the_outcomes_of_their_completions(
    size: int, kinds: list[tuple[float, float]], data: st.DataObject
) -> None:
    """Against every sequence of outcomes of the unfinished completions."""
    states = group_states(size)
    success, failure = map(np.array, zip(*kinds, strict=True))
    ways = states.chances_of_ways(success, failure, 1 - success - failure)
    share = data.draw(st.floats(0, 1))
    chances = states.chances_of_steps(np.tile([share, 1 - share], (len(states.won), 1)), ways)
    figure = np.array(data.draw(st.lists(st.floats(-9, 9), min_size=len(states.won), max_size=len(states.won))))
    after, further = states.mean_after(chances, figure), states.chances_of_further(success)
    for place, (won, lost, unfinished) in enumerate(zip(states.won, states.lost, states.unfinished, strict=True)):
        expected, successes = 0.0, np.zeros((size + 1, 2))
        for outcomes in itertools.product((0, 1, 2), repeat=unfinished):
            each = [
                math.prod((a, b, 1 - a - b)[outcome] for outcome in outcomes)
                for a, b in zip(success, failure, strict=True)
            ]
            more = outcomes.count(0)
            expected += np.dot((share, 1 - share), each) * figure[states.index[won + more, lost + outcomes.count(1)]]
            successes[more] += each
        assert after[place] == pytest.approx(expected, abs=1e-9)
        assert further[place] == pytest.approx(successes, abs=1e-9)


@few
@given(kind, gains, st.integers(2, 5))
def test_without_a_price_every_group_goes_on_and_everything_is_explained(
    row: tuple[list[float], list[float]], gain: Gain, size: int
) -> None:
    """Of one kind. With several, a state does not say when its completions ended, so the rule is an approximation."""
    kinds = kinds_of(row)
    problem = StoppingProblem(kinds, ENDS, size, gain)
    rule = problem.situation(kinds.shares).solve(0.0)
    assert rule.expected.successes_lost == pytest.approx(0, abs=1e-9)
    if not gain.by_tokens:
        assert rule.expected.explained == pytest.approx(explained_in_full(kinds, size, gain), abs=1e-6)
    whole = sum(share * tokens for share, tokens in zip(kinds.shares, mean_tokens(kinds), strict=True))
    assert rule.expected.tokens == pytest.approx(size * whole)


@pytest.mark.parametrize("row", [([0.6, 0.0, 0.0], [0.0, 0.0, 0.7]), ([0.0, 0.0, 0.8], [0.4, 0.0, 0.0])])
def test_by_tokens_every_completion_weighs_what_it_takes(row: tuple[list[float], list[float]]) -> None:
    """Successes end in one stage and failures in one, so that the mean tokens of each are known exactly."""
    kinds, gain = kinds_of(row), Gain(by_tokens=True, scaled=True)
    rule = StoppingProblem(kinds, ENDS, 4, gain).situation(kinds.shares).solve(0.0)
    assert rule.expected.explained == pytest.approx(explained_in_full(kinds, 4, gain))


def explained_in_full(kinds: PromptKinds, size: int, gain: Gain) -> float:
    """The expected sum of squared advantages of a full rollout, over completions or over their mean tokens."""
    total = 0.0
    for share, success, failure in zip(kinds.shares, kinds.success, kinds.failure, strict=True):
        on, won_tokens, lost_tokens, chances = 1.0, 0.0, 0.0, [0.0, 0.0]
        for a, b, start, end in zip(success, failure, (0, *ENDS), ENDS, strict=False):
            won_tokens, lost_tokens = (
                old + on * new * (start + end) / 2 for old, new in ((won_tokens, a), (lost_tokens, b))
            )
            chances, on = [chances[0] + on * a, chances[1] + on * b], on * (1 - a - b)
        tokens = [
            won_tokens / chances[0] if chances[0] else 0.0,
            lost_tokens / chances[1] if chances[1] else 0.0,
            ENDS[-1],
        ]
        weights = tokens if gain.by_tokens else [1.0, 1.0, 1.0]
        for won in range(size + 1):
            for lost in range(size + 1 - won):
                cut = size - won - lost
                ways = math.comb(size, won) * math.comb(size - won, lost)
                weight = ways * chances[0] ** won * chances[1] ** lost * max(on, 0.0) ** cut
                of_success, of_failure = advantages(won, size, gain.scaled)
                squares = (won * of_success**2, lost * of_failure**2, cut * of_failure**2)
                total += share * weight * sum(map(operator.mul, squares, weights))
    return total


def mean_tokens(kinds: PromptKinds) -> list[float]:
    result = []
    for success, failure in zip(kinds.success, kinds.failure, strict=True):
        on, tokens = 1.0, 0.0
        for a, b, start, end in zip(success, failure, (0, *ENDS), ENDS, strict=False):
            tokens += on * (end - start) * (1 - (a + b) / 2)
            on *= 1 - a - b
        result.append(tokens)
    return result


@few
@given(kind, gains, st.floats(1e-6, 1.0), st.floats(1.0, 10.0))
def test_a_higher_price_lets_no_group_go_on_that_a_lower_one_stops(
    row: tuple[list[float], list[float]], gain: Gain, price: float, factor: float
) -> None:
    """Of one kind, where the expected figures are exact."""
    kinds = kinds_of(row)
    situation = StoppingProblem(kinds, ENDS, 4, gain).situation(kinds.shares)
    low, high = situation.solve(price), situation.solve(price * factor)
    for stage in range(len(ENDS) - 1):
        for won in range(5):
            for lost in range(5 - won):
                assert low.margin(stage, won, lost) >= high.margin(stage, won, lost) - 1e-9
    assert low.expected.tokens >= high.expected.tokens - 1e-6
    assert low.expected.successes_lost <= high.expected.successes_lost + 1e-9


def test_a_price_is_solved_once_and_its_rule_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search has solved the price that it finds; groups wait for what is solved while a rollout goes on."""
    kinds, gain, solved = kinds_of(EASY, HOPELESS, LATE), Gain(by_tokens=False, scaled=True), list[float]()
    solve = Situation._solved

    def noted(situation: Situation, price: float) -> Rule:
        solved.append(price)
        return solve(situation, price)

    monkeypatch.setattr(Situation, "_solved", noted)
    problem = StoppingProblem(kinds, ENDS, 4, gain)
    situation = problem.situation(kinds.shares)
    price = best_price([situation], [1.0], 0.02)
    mean_expected([situation], [1.0], price)
    rule, anew = problem.rule(kinds.shares, price), solve(situation, price)
    assert rule.expected == anew.expected and np.array_equal(rule.margins, anew.margins)
    assert len(solved) == len(set(solved)) > 1


class AlwaysLosing:
    """A prompt of which some success is lost at every price above zero."""

    def solve(self, price: float) -> SimpleNamespace:
        return SimpleNamespace(expected=Expected(0.1, 100.0, 1.0, 0.5 if price > 0 else 0.0))


@pytest.mark.parametrize("near", [None, 1e-3])
def test_where_every_price_loses_too_much_it_is_nothing(near: float | None) -> None:
    assert best_price([cast(Situation, AlwaysLosing())], [1.0], 0.0, near) == pytest.approx(0.0, abs=1e-12)


@few
@given(kind, gains, st.sampled_from((0.0, 0.02, 0.2, 0.9)))
def test_the_best_price_loses_no_more_successes_than_the_slack(
    row: tuple[list[float], list[float]], gain: Gain, slack: float
) -> None:
    """Of one kind, where the expected figures are exact."""
    kinds = kinds_of(row)
    situation = StoppingProblem(kinds, ENDS, 4, gain).situation(kinds.shares)
    expected = situation.solve(best_price([situation], [1.0], slack)).expected
    assert expected.successes_lost <= slack * expected.successes + 1e-9


def test_no_rule_on_a_grid_of_prices_explains_more_per_token() -> None:
    kinds = kinds_of(EASY, HOPELESS, LATE)
    situation = StoppingProblem(kinds, ENDS, 4, BY_SEQUENCES).situation(kinds.shares)
    best = situation.solve(best_price([situation], [1.0], 0.99)).expected
    for step in range(60):
        other = situation.solve(1e-5 * 1.25**step).expected
        assert other.explained / other.tokens <= best.explained / best.tokens * (1 + 1e-6)


def test_hopeless_groups_stop_and_late_ones_go_on_where_the_prompt_is_known() -> None:
    kinds = kinds_of(EASY, HOPELESS, LATE)
    problem = StoppingProblem(kinds, ENDS, 4, BY_SEQUENCES)
    situations = [problem.situation([float(place == known) for place in range(3)]) for known in range(3)]
    price = best_price(situations, [1 / 3] * 3, 0.02)
    hopeless, late = situations[1].solve(price), situations[2].solve(price)
    assert not hopeless.goes_on(0, 0, 0) and not hopeless.goes_on(1, 0, 1)
    assert late.goes_on(0, 0, 0) and late.goes_on(1, 0, 0)


def test_a_group_whose_completions_have_all_ended_does_not_go_on() -> None:
    kinds = kinds_of(EASY)
    rule = StoppingProblem(kinds, ENDS, 4, BY_SEQUENCES).situation([1.0]).solve(0.0)
    assert rule.goes_on(0, 1, 2) and not rule.goes_on(0, 1, 3)


def sample_group(success: list[float], failure: list[float], label: str, generator: random.Random) -> GroupRecord:
    unfinished, stages = 8, []
    for a, b in zip(success, failure, strict=True):
        draws = [generator.random() for _ in range(unfinished)]
        won, lost = sum(draw < a for draw in draws), sum(a <= draw < a + b for draw in draws)
        unfinished -= won + lost
        stages.append(StageCount(won, lost, unfinished))
    return GroupRecord(label, tuple(stages))


def stopped(group: GroupRecord, generator: random.Random) -> GroupRecord:
    """A group without a success stops after the first stage, unless a coin of 1 in 8 lets it explore."""
    stops = not group.stages[0].successes and generator.random() >= 0.125
    return GroupRecord(group.label, group.stages[:1]) if stops else group


def test_kinds_that_have_merged_are_told_apart_by_a_fit_afresh() -> None:
    generator, groups = random.Random(0), []
    for _ in range(100):
        groups += [sample_group(*LATE, "late", generator), sample_group(*HOPELESS, "hopeless", generator)]
    likelihoods, chances = [], []
    for also_afresh in (False, True):
        kinds = PromptKinds(len(ENDS))
        kinds.restore(
            {
                "success": [[0.1] * 3] * KINDS,
                "failure": [[0.1] * 3] * KINDS,
                "shares": [1 / KINDS] * KINDS,
                "label_shares": {},
            }
        )
        kinds.fit(groups, [1.0] * len(groups), also_afresh=also_afresh)
        likelihoods.append(kinds.log_likelihood(SeenGroups(groups, [1.0] * len(groups), len(ENDS))))
        each = [eventual((won, lost)) for won, lost in zip(kinds.success, kinds.failure, strict=True)]
        shares = kinds.prior("hopeless")
        chances.append(sum(share * chance for share, chance in zip(shares, each, strict=True)))
    assert likelihoods[1] > likelihoods[0] + 100
    assert chances[0] > 0.1 and chances[1] < 0.02


@pytest.mark.parametrize("some_stop", [False, True])
def test_kinds_are_found_again_also_where_groups_were_stopped(some_stop: bool) -> None:
    generator = random.Random(0)
    groups = []
    for _ in range(400):
        groups += [sample_group(*EASY, "a", generator), sample_group(*LATE, "b", generator)]
        groups += [sample_group(*HOPELESS, "c", generator)]
    if some_stop:
        groups = [stopped(group, generator) for group in groups]
    kinds = PromptKinds(len(ENDS))
    kinds.fit(groups, [1.0] * len(groups))
    for label, expected in {"a": eventual(EASY), "b": eventual(LATE), "c": 0.0}.items():
        shares = kinds.prior(label)
        rows = zip(shares, kinds.success, kinds.failure, strict=True)
        found = sum(share * eventual((success, failure)) for share, success, failure in rows)
        assert found == pytest.approx(expected, abs=0.06), label


def eventual(row: tuple[list[float], list[float]]) -> float:
    on, total = 1.0, 0.0
    for a, b in zip(*row, strict=True):
        total, on = total + on * a, on * (1 - a - b)
    return total


def test_groups_that_count_less_say_less_of_the_kinds() -> None:
    right, wrong = (GroupRecord("", (StageCount(won, 8 - won, 0),)) for won in (8, 0))
    for weight, expected in ((1.0, 1 / 2), (1 / 3, 1 / 4), (0.01, 0.0)):
        kinds = PromptKinds(len(ENDS))
        kinds.fit([right, wrong] * 20, [weight, 1.0] * 20)
        found = sum(share * success[0] for share, success in zip(kinds.shares, kinds.success, strict=True))
        assert found == pytest.approx(expected, abs=0.03)


def test_an_unknown_label_is_any_prompt() -> None:
    kinds = PromptKinds(len(ENDS))
    kinds.fit([sample_group(*EASY, "a", random.Random(1))] * 5, [1.0] * 5)
    assert kinds.prior("never seen") == kinds.shares


def test_tokens_to_come_are_those_of_the_stages_to_come() -> None:
    """A completion that ends in a stage ends in its middle, on average: of 128 tokens, 64 are to come for it."""
    of_easy, of_late = kinds_of(EASY, LATE).remaining_tokens(ENDS)
    assert of_easy == pytest.approx([64 * 0.75 + 0.5 * 128 * 0.9, 128 * 0.9, 0])
    assert of_late == pytest.approx([64 * 0.95 + 0.9 * 128 * 0.55, 128 * 0.55, 0])


def test_what_a_prompt_showed_moves_its_kind_and_evidence_of_the_past_moves_it_less() -> None:
    kinds = kinds_of(EASY, HOPELESS)
    failing = [StageCount(0, 1, 7), StageCount(0, 1, 6), StageCount(0, 1, 5)]
    now, past = kinds.posterior([0.5, 0.5], failing), kinds.posterior([0.5, 0.5], failing, 0.5)
    assert now[1] > past[1] > 0.9


@some
@given(st.floats(0.001, 1), st.floats(1e-4, 0.1), st.integers(0, 2**16))
def test_step_costs_are_found_again(a: float, b: float, seed: int) -> None:
    generator = random.Random(seed)
    cost = StepCost()
    assert cost.rows_per_step == 0
    for _ in range(3):
        stages = [(steps, steps * rows) for steps, rows in ((64, generator.randint(90, 128)), (500, 8), (100, 40))]
        cost.add((steps, rows, a * steps + b * rows) for steps, rows in stages)
    assert cost.rows_per_step == pytest.approx(a / b, rel=1e-3)
    resumed = StepCost()
    resumed.restore(cost.state())
    assert resumed.rows_per_step == cost.rows_per_step


def test_the_rows_take_the_part_of_the_time_that_is_not_of_the_steps() -> None:
    cost = StepCost()
    assert cost.share_of_rows == 1
    cost.add((steps, rows, 0.5 * steps + 0.01 * rows) for steps, rows in ((64, 6400), (100, 2000)))
    assert cost.share_of_rows == pytest.approx(84 / (84 + 82))


def test_where_completions_that_are_cut_have_no_loss_they_explain_nothing() -> None:
    """Four successes, and four completions that would have failed: half of the squared advantages are theirs."""
    explains = {of_cut: sum(explained(4, 0, 0, 8, Gain(False, False, of_cut))) for of_cut in (True, False)}
    assert explains == {True: pytest.approx(2.0), False: pytest.approx(1.0)}


@pytest.mark.parametrize("slower", [100.0, 0.01])
def test_a_run_that_continues_on_another_machine_takes_over_its_prices(slower: float) -> None:
    """At once, however much faster or slower it is."""

    def seen(cost: StepCost, price: float, seconds: float) -> None:
        stages = ((steps, steps * rows) for steps, rows in ((32, 128), (48, 80), (400, 20)))
        cost.add((steps, rows, seconds * (price * steps + rows)) for steps, rows in stages)

    cost = StepCost()
    for _ in range(24):
        seen(cost, 1.0, slower)
    seen(cost, 300.0, 1.0)
    assert cost.rows_per_step == pytest.approx(300)
