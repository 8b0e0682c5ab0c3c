"""The policy that decides per group: when groups stop, what it remembers, and that it can be resumed."""

import itertools
import json
import operator
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.windows_histories import through_json
from tinyzero_trl.windows import GroupState, RolloutObservation, WindowConfig, WindowPolicy, make_policy
from tinyzero_trl.windows.exploration import Exploration
from tinyzero_trl.windows.group_knowledge import GroupKnowledge
from tinyzero_trl.windows.group_memory import PromptPasts, RecentGroups, group_records
from tinyzero_trl.windows.kinds import KINDS, GroupRecord, StageCount

MAXIMUM, SIZE = 512, 4
ENDS = (64, 128, 256)
few = settings(max_examples=20, deadline=None)


def policy(**values: Any) -> WindowPolicy[Any]:
    defaults = dict(
        max=MAXIMUM,
        first_stage=64,
        stage_growth=2.0,
        min_groups=12,
        min_samples=4,
        memory_rollouts=8,
        group_gain="sequences",
    )
    return make_policy(WindowConfig(strategy="group", **(defaults | values)))


Completion = tuple[int, bool]  # tokens it wants, whether it is right
Prompt = Callable[[random.Random], Completion]


def easy(generator: random.Random) -> Completion:
    return generator.randint(20, 100), generator.random() < 0.6


def late(generator: random.Random) -> Completion:
    right = generator.random() < 0.5
    return generator.randint(300, 480) if right else MAXIMUM + 1, right


def hopeless(generator: random.Random) -> Completion:
    return generator.randint(50, 2 * MAXIMUM), False


def mixture(generator: random.Random) -> Prompt:
    return generator.choice((easy, late, hopeless))


class Groups:
    """Groups of prompts that a policy follows, rollout by rollout; every policy meets the same ones."""

    def __init__(self, seed: int = 0, prompts: int = 6, draw: Callable[[random.Random], Prompt] = mixture) -> None:
        self._generator, self._prompts, self._draw = random.Random(seed), prompts, draw
        self._step = 0

    def follow(
        self, policies: list[WindowPolicy[Any]], *, labels: bool = False, clock: "Clock | None" = None
    ) -> list[tuple[tuple[bool, ...], ...]]:
        """One rollout; what each policy answered at each stage end."""
        prompts = [self._draw(self._generator) for _ in range(self._prompts)]
        groups = [[prompt(self._generator) for _ in range(SIZE)] for prompt in prompts]
        names = [prompt.__name__ for prompt in prompts]
        keys = [f"{self._step} {place}" for place in range(len(groups))] if labels else names  # recurring, or labelled
        of_groups = (groups, names if labels else None, keys)
        answers = [follow(policy, self._step, *of_groups, clock or Clock()) for policy in policies]
        self._step += 1
        return answers


class Clock:
    """Times stages at `step` seconds for a decoding step and `row` for each of its rows, and adds up what was seen."""

    def __init__(self, step: float = 0.0, row: float = 1.0) -> None:
        self._step, self._row = step, row
        self._noise = random.Random(0)
        self.steps = self.successes = self.successes_at_full_length = 0

    def stage(self, new_tokens: list[int]) -> tuple[int, int, float]:
        steps, rows = max(new_tokens, default=0), sum(new_tokens)
        return steps, rows, (self._step * steps + self._row * rows) * self._noise.uniform(0.99, 1.01)


def follow(
    policy: WindowPolicy[Any],
    step: int,
    groups: list[list[Completion]],
    labels: list[str] | None,
    keys: list[str],
    clock: Clock,
) -> tuple[tuple[bool, ...], ...]:
    *ends, last = policy.stages
    limits = [last] * len(groups)
    answers, timings = [], []
    for start, end in zip((0, *ends), ends, strict=False):
        running = [tokens for place, group in enumerate(groups) if limits[place] == last for tokens, _ in group]
        timings.append(clock.stage([min(tokens, end) - start for tokens in running if tokens > start]))
        states = [
            GroupState(
                group=place,
                stage_end=end,
                successes=sum(right for tokens, right in group if tokens <= end),
                failures=sum(not right for tokens, right in group if tokens <= end),
                unfinished=sum(tokens > end for tokens, _ in group),
                label=labels[place] if labels else "",
            )
            for place, group in enumerate(groups)
            if limits[place] == last and any(tokens > end for tokens, _ in group)
        ]
        answers.append(tuple(policy.go_on(states)))
        for state, goes_on in zip(states, answers[-1], strict=True):
            limits[state.group] = last if goes_on else end
    rows = [(place, *completion) for place, group in enumerate(groups) for completion in group]
    lengths = [min(tokens, limits[place]) for place, tokens, _ in rows]
    rewards = [float(right and tokens <= limits[place]) for place, tokens, right in rows]
    clock.steps += max(lengths)
    clock.successes += round(sum(rewards))
    clock.successes_at_full_length += sum(right for _, tokens, right in rows if tokens <= last)
    policy.observe(
        RolloutObservation(
            step=step,
            window=last,
            lengths=lengths,
            rewards=rewards,
            truncated=[tokens > limits[place] for place, tokens, _ in rows],
            groups=[place for place, _, _ in rows],
            labels=[labels[place] for place, _, _ in rows] if labels else (),
            prompt_keys=[keys[place] for place, _, _ in rows],
            timings=timings,
        )
    )
    return tuple(answers)


@few
@given(st.integers(0, 99), st.integers(0, 10), st.booleans(), st.sampled_from(("value", "plain")))
def test_the_same_observations_give_the_same_decisions_and_a_resume_changes_nothing(
    seed: int, stop: int, labels: bool, rule: str
) -> None:
    groups = Groups(seed)
    one, other = policy(group_rule=rule), policy(group_rule=rule)
    for step in range(14):
        if step == stop:
            other = through_json(other)
        first, second = groups.follow([one, other], labels=labels)
        assert first == second
    assert one.state_dict() == other.state_dict()
    assert (one.metrics(), one.group_metrics()) == (other.metrics(), other.group_metrics())


def test_no_group_stops_before_enough_is_known() -> None:
    for values, full_rollouts in (({"min_groups": 12}, 2), ({"min_groups": 25}, 5), ({"min_samples": 10**6}, 14)):
        waiting, groups = policy(**values), Groups()
        stops = [not all(map(all, groups.follow([waiting])[0])) for _ in range(14)]
        assert not any(stops[:full_rollouts]), values
        assert any(stops) == (full_rollouts < 14), values


@pytest.mark.parametrize(
    ("groups", "is_enough"),
    [
        ([[(1, 1, 2), (1, 1, 0)]] * 2, True),
        ([[(1, 1, 2), (1, 1, 0)]], False),  # one group, of two
        ([[(1, 3, 0)]] * 4, True),  # groups that end in the first stage have been followed to their end
        ([[(0, 2, 2), (1, 1, 0)]] * 2, False),  # two successes, of four
        ([[(3, 0, 1), (0, 0, 1)]] * 3, False),  # three completions in the last stage, of four
        ([[(3, 0, 1), (0, 0, 1)]] * 4, True),  # a completion that is cut at the end was followed to it
        ([[(3, 0, 1), (0, 1, 0)]] * 3, True),  # nothing is cut: more than these three never get there
        ([[(3, 0, 1)]] * 4, False),  # groups that have stopped
        ([[(3, 0, 1)]] * 2 + [[(4, 0, 0)]] * 2, False),  # nothing tells of the last stage, which some would have seen
    ],
)
def test_enough_is_known_of_groups_and_successes_and_of_the_last_stage(
    groups: list[list[tuple[int, int, int]]], is_enough: bool
) -> None:
    recent = RecentGroups(8)
    for stages in groups:
        recent.add([GroupRecord("", tuple(StageCount(*stage) for stage in stages))])
    assert recent.is_enough(stages=2, min_groups=2, min_samples=4) is is_enough


def test_a_completion_that_ends_with_a_stage_belongs_to_it() -> None:
    """Empty ones end in the first stage; a group is followed to the end of its cut, and not at all in a cut stage."""
    lengths, rewards = [64, 65, 128, 256, 0, 256, 64, 50], [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    cut = [False] * 5 + [True] * 3
    seen = RolloutObservation(0, 256, lengths, rewards, cut, [0, 0, 0, 0, 1, 1, 2, 3], labels=list("aaaabbcd"))
    counts = {record.label: [tuple(stage) for stage in record.stages] for record, _ in group_records(seen, ENDS, 1.0)}
    assert counts == {
        "a": [(1, 0, 3), (1, 1, 1), (0, 1, 0)],
        "b": [(0, 1, 1), (0, 0, 1), (1, 0, 0)],
        "c": [(0, 0, 1)],
    }


def test_a_rollout_counts_half_as_much_after_a_third_of_the_memory() -> None:
    recent = RecentGroups(6)
    for label in "abcdefg":
        recent.add([GroupRecord(label, (StageCount(1, 0, 0),))] * 2)
    groups, weights = recent.weighted()
    assert [group.label for group in groups] == list("ggffeeddccbb")
    assert weights[::2] == weights[1::2] == pytest.approx([1, 0.5**0.5, 0.5, 0.5**1.5, 0.25, 0.5**2.5])


def test_hopeless_prompts_stop_and_late_ones_go_on_once_their_label_is_known() -> None:
    known, groups = policy(slack=0.1, explore_share=0.0), Groups(prompts=12)
    for _ in range(12):
        groups.follow([known], labels=True)
    [of_hopeless, of_late] = known.go_on(
        [GroupState(place, 64, 0, 0, SIZE, label) for place, label in enumerate(("hopeless", "late"))]
    )
    assert of_late
    assert not of_hopeless


def test_a_prompt_that_comes_again_is_known_without_a_label() -> None:
    known, groups = policy(slack=0.1, explore_share=0.0), Groups(prompts=12)
    for _ in range(12):
        groups.follow([known])
    [of_hopeless, of_late] = known.go_on(
        [GroupState(place, 128, 0, 0, SIZE, "", key) for place, key in enumerate(("hopeless", "late"))]
    )
    assert of_late
    assert not of_hopeless


def test_the_last_visit_of_a_prompt_counts_more_than_the_one_before() -> None:
    """Two kinds of prompts succeed late, one seldom and one often, and a visit only makes one of them likelier."""
    known, groups = policy(), Groups()
    groups.follow([known])
    state = known.state_dict()
    shares = [0.5, 0.5, *[0.0] * (KINDS - 2)]
    state["kinds"] = {
        "success": [[0.0, 0.0, 0.0, late] for late in (0.05, 0.3, *[0.0] * (KINDS - 2))],
        "failure": [[0.0] * 4] * KINDS,
        "shares": shares,
        "label_shares": {"": shares},
    }
    in_vain, half_right = "0 0 4 " * 4, "0 0 4 " * 3 + "2 0 2"
    state["prompts"] = {"learned": [half_right, in_vain], "forgotten": [in_vain, half_right]}  # the last visit first
    masks = set()
    for price in (1e-4 * 1.1**step for step in range(60)):
        known.load_state_dict(state | {"price": price, "explore_probability": 0.0})
        masks.add(tuple(known.go_on([GroupState(0, 64, 0, 0, SIZE, "", key) for key in ("learned", "forgotten")])))
    assert masks == {(True, True), (True, False), (False, False)}


def test_without_the_memory_of_prompts_only_the_state_of_the_group_counts() -> None:
    known, groups = policy(slack=0.1, explore_share=0.0, prompt_memory=False), Groups(prompts=12)
    for _ in range(12):
        groups.follow([known])
    assert known.state_dict()["prompts"] == []
    of_hopeless, of_late = known.go_on(
        [GroupState(place, 128, 0, 0, SIZE, "", key) for place, key in enumerate(("hopeless", "late"))]
    )
    assert of_hopeless == of_late


def test_more_slack_spends_fewer_tokens() -> None:
    saved = []
    for slack in (0.0, 0.05, 0.5):
        seen, groups = policy(slack=slack), Groups(prompts=12)
        sums = 0.0
        for _ in range(20):
            groups.follow([seen])
            sums += seen.group_metrics()["tokens_saved_frac"]
        saved.append(sums)
    assert saved[0] < saved[1] < saved[2]


def test_groups_are_drawn_to_explore_as_often_as_said_and_then_go_on_to_the_end() -> None:
    plain = policy(group_rule="plain", initial=64, explore_share=0.25)
    drawn = []
    for step in range(60):
        states = [GroupState(place, 64, 0, 0, SIZE) for place in range(10)]
        drawn.append(plain.go_on(states))
        assert plain.go_on(states) == drawn[-1], "asked again, the same groups are drawn"
        plain.observe(RolloutObservation(step, MAXIMUM, [10, 20], [1.0, 0.0], [False, False], [0, 0]))
    assert sum(map(sum, drawn)) / 600 == pytest.approx(0.25, abs=0.05)
    assert len({tuple(mask) for mask in drawn}) > 30


@pytest.mark.parametrize("explore_share", [0.3, 0.05])
def test_where_stops_save_most_tokens_exploring_costs_a_share_of_the_others(explore_share: float) -> None:
    seen = policy(explore_share=explore_share)
    groups = Groups(prompts=16, draw=lambda generator: generator.choice((easy, hopeless, hopeless, hopeless)))
    for _ in range(14):
        groups.follow([seen], labels=True)
    assert 0 < seen.metrics()["explore_probability"] < explore_share / 2


@pytest.mark.parametrize("explore_share", [0.3, 0.05])
def test_exploring_gives_back_at_most_its_share_of_what_stops_save(explore_share: float) -> None:
    seen, groups = policy(explore_share=explore_share), Groups(prompts=12)
    for _ in range(12):
        groups.follow([seen])
        assert 0 < seen.metrics().get("explore_probability", explore_share) <= explore_share


def test_a_prompt_that_stops_again_and_again_is_known_by_the_visit_that_showed_why() -> None:
    to_the_end, stopped = ((StageCount(0, 0, 8),) * stages for stages in (4, 1))
    pasts = PromptPasts()
    for visit in (to_the_end, stopped, stopped, stopped):
        pasts.add("prompt", visit)
    assert pasts.of("prompt") == [stopped, to_the_end]
    newer = (StageCount(1, 0, 7),) * 4
    pasts.add("prompt", newer)
    pasts.add("prompt", stopped)
    assert pasts.of("prompt") == [stopped, newer]


def test_groups_go_on_stopping_and_more_of_them_explore_where_too_little_is_remembered() -> None:
    """The first rollout alone shows completions to their end; a memory of two rollouts forgets it."""
    forgets, groups = policy(memory_rollouts=2, explore_share=0.01, slack=0.5), Groups(prompts=16)
    probabilities = []
    for _ in range(12):
        groups.follow([forgets])
        probabilities.append(forgets.metrics().get("explore_probability"))
    assert probabilities[0] is not None and None not in probabilities
    assert max(probabilities) == 0.1 > min(probabilities)


def test_the_plain_rule_lets_a_group_go_on_once_one_of_it_has_succeeded() -> None:
    plain = policy(group_rule="plain", initial=96, explore_share=0.0)
    assert plain.stages == (96, MAXIMUM)
    assert plain.go_on([GroupState(0, 96, 0, 2, 2), GroupState(1, 96, 1, 1, 2)]) == [False, True]


@pytest.mark.parametrize(("step", "row"), [(10.0, 1.0), (1000.0, 1.0), (100.0, 0.0)])
def test_a_price_in_seconds_loses_no_more_successes_than_slack(step: float, row: float) -> None:
    """However dear the steps are, and also where the rows cost nothing that could be measured."""
    seen, groups, clock = policy(group_price="seconds", slack=0.02), Groups(prompts=12), Clock(step, row)
    for _ in range(30):
        groups.follow([seen], labels=True, clock=clock)
    assert clock.successes > 0.97 * clock.successes_at_full_length


def test_with_a_price_in_seconds_a_few_groups_do_not_take_dear_steps_alone() -> None:
    masks = {}
    for price, step in (("tokens", 100.0), ("seconds", 0.1), ("seconds", 100.0)):
        seen, groups, clock = policy(group_price=price, slack=0.2, explore_share=0.0), Groups(prompts=12), Clock(step)
        for _ in range(8):
            groups.follow([seen], labels=True, clock=clock)
        masks[price, step] = seen.go_on([GroupState(0, 256, 0, 0, 4, "late")])
    assert masks == {("tokens", 100.0): [True], ("seconds", 0.1): [True], ("seconds", 100.0): [False]}


def test_with_a_price_in_seconds_all_go_on_where_one_explores_or_stops_have_lost_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The steps are taken anyway where a group explores; and the losses of all stops of a rollout add up."""
    seen, groups, clock = policy(group_price="seconds", slack=0.2, explore_share=0.0), Groups(prompts=12), Clock(100.0)
    for _ in range(8):
        groups.follow([seen], labels=True, clock=clock)
    states = [GroupState(0, 256, 0, 0, 4, "late"), GroupState(1, 256, 0, 0, 4, "hopeless")]
    with monkeypatch.context() as patch:
        patch.setattr(Exploration, "is_drawn", lambda self, rollout, group: group == 1)
        assert seen.go_on(states) == [True, True]
    answers = [seen.go_on(states[:1]) for _ in range(12)]
    assert answers[0] == [False] and answers[-1] == [True]


def test_with_a_price_in_seconds_a_stage_is_as_dear_as_it_is_long() -> None:
    seen, groups, clock = policy(group_price="seconds", stage_growth=1.5), Groups(prompts=12), Clock(step=10.0)
    for _ in range(8):
        groups.follow([seen], labels=True, clock=clock)
    ends = seen.stages
    costs = [seen._cost_of_steps(end) for end in ends[:-1]]  # type: ignore[attr-defined]
    steps = [after - end for end, after in itertools.pairwise(ends)]
    assert costs[0] > 0 and len(set(steps)) > 2
    assert [cost / costs[0] for cost in costs] == pytest.approx([each / steps[0] for each in steps])


def test_with_a_price_in_seconds_groups_explore_in_the_same_rollouts() -> None:
    """So that the other rollouts need not take the steps. As many explore in all."""
    steps, explored = {}, {}
    for price in ("tokens", "seconds"):
        seen, clock = policy(group_price=price, memory_rollouts=24, explore_share=0.2), Clock(step=100.0)
        groups = Groups(prompts=16, draw=lambda generator: generator.choice((easy, hopeless)))
        of_rollouts = []
        for _ in range(80):
            groups.follow([seen], labels=True, clock=clock)
            of_rollouts.append(seen.group_metrics()["explored_frac"])
        steps[price], explored[price] = clock.steps, of_rollouts
    together = [sum(map(bool, explored["seconds"][lap : lap + 8])) for lap in range(0, 80, 8)]
    assert set(together) <= {0, 1} and sum(together) > 5, "rollouts in which groups explore, of eight"
    assert steps["seconds"] < 0.7 * steps["tokens"]
    assert sum(explored["seconds"]) == pytest.approx(sum(explored["tokens"]), rel=0.6)


def test_a_group_that_was_not_judged_has_no_part_in_what_became_of_the_groups() -> None:
    """It may have explored before its first completion finished, as prompts of another task of the same data may."""
    plain = policy(group_rule="plain", initial=64, explore_share=1.0)
    assert plain.go_on([GroupState(group, 64, 0, 0, 2) for group in range(4)]) == [True] * 4
    rewards = [0.0, 1.0, *[None] * 6]
    plain.observe(RolloutObservation(0, MAXIMUM, [200] * 8, rewards, [False] * 8, [row // 2 for row in range(8)]))
    figures = plain.group_metrics()
    assert (figures["explored_frac"], figures["continued_frac"], figures["stopped_frac"]) == (1.0, 0.0, 0.0)


def test_groups_that_explored_are_those_of_this_rollout_alone() -> None:
    """Though nothing of the rollout before was judged, or all of this one has finished before anybody was asked."""
    plain = policy(group_rule="plain", initial=64, explore_share=1.0)
    states, groups = [GroupState(group, 64, 0, 0, 2) for group in range(4)], [row // 2 for row in range(8)]
    explored = []
    for asked, rewards in ((states, [None] * 8), (states[:1], [0.0] * 8), ([], [0.0] * 8)):
        plain.go_on(asked)
        plain.observe(RolloutObservation(0, MAXIMUM, [50] * 8, rewards, [False] * 8, groups))
        explored.append(plain.group_metrics().get("explored_frac"))
    assert explored == [None, 0.25, 0]


def test_with_a_long_memory_as_many_groups_explore_as_asked() -> None:
    """The plain rule draws with a known probability. One rollout of 33 would have to explore more than all groups."""
    plain = policy(
        group_rule="plain", initial=64, explore_share=0.25, group_price="seconds", memory_rollouts=100, max=128
    )
    drawn = []
    for step in range(400):
        drawn += plain.go_on([GroupState(group, 64, 0, 0, 4) for group in range(16)])
        plain.observe(
            RolloutObservation(step=step, window=128, lengths=[64], rewards=[0.0], truncated=[True], groups=[0])
        )
    assert sum(drawn) / len(drawn) == pytest.approx(0.25, abs=0.04)


def test_where_labels_are_many_late_ones_are_paid_for_too() -> None:
    """Half of forty are late. A price by the most frequent ones alone lost 5 % of the successes."""
    kept = []
    for seed in range(3):
        seen, generator = policy(slack=0.02, prompt_memory=False, memory_rollouts=24), random.Random(seed)
        clock = Clock()
        for step in range(40):
            clock = Clock() if step == 16 else clock
            labels = [generator.randrange(40) for _ in range(16)]
            groups = [[(late if label < 20 else easy)(generator) for _ in range(SIZE)] for label in labels]
            follow(seen, step, groups, [f"{label:02d}" for label in labels], [""] * 16, clock)
        kept.append(clock.successes / clock.successes_at_full_length)
    assert sum(kept) / 3 > 0.965


def test_one_text_under_two_labels_has_two_pasts() -> None:
    """The same words may stand for another task: what was seen under one label says nothing of the other."""
    seen, generator = policy(memory_rollouts=24), random.Random(0)
    for step in range(14):
        groups = [[prompt(generator) for _ in range(SIZE)] for prompt in (easy, hopeless) * 6]
        keys = ["same", "same", *(f"{step} {place}" for place in range(10))]
        follow(seen, step, groups, ["easy", "hopeless"] * 6, keys, Clock())
    knowledge = seen._knowledge  # type: ignore[attr-defined]
    assert knowledge.prior("easy", "same") != knowledge.prior("hopeless", "same")
    for label in ("easy", "hopeless"):
        assert knowledge.prior(label, "same") != knowledge.prior(label, "never seen")
    kinds = {label: max(range(KINDS), key=knowledge.prior(label, "same").__getitem__) for label in ("easy", "hopeless")}
    ever = {label: sum(knowledge.kinds.success[kind]) for label, kind in kinds.items()}
    assert ever["easy"] > 10 * ever["hopeless"]


def test_what_is_drawn_by_the_plain_rule_follows_the_configuration_after_a_resume() -> None:
    before = policy(group_rule="plain", initial=96, explore_share=0.9)
    after = policy(group_rule="plain", initial=96, explore_share=0.0)
    after.load_state_dict(before.state_dict())
    assert not any(after.go_on([GroupState(group, 96, 0, 0, SIZE) for group in range(40)]))


def test_a_price_of_another_gain_stops_nothing() -> None:
    """Its unit is another one. After the next rollout there is a new price."""
    seen, groups = policy(slack=0.5, group_gain="tokens"), Groups(prompts=12)
    for _ in range(12):
        groups.follow([seen], labels=True)
    hopeless = [GroupState(0, 64, 0, 0, SIZE, "hopeless")]
    assert seen.go_on(hopeless) == [False]
    for gain, stops in (("tokens", True), ("sequences", False)):
        resumed = policy(slack=0.5, group_gain=gain, explore_share=0.0)
        resumed.load_state_dict(seen.state_dict())
        assert resumed.go_on(hopeless) == [not stops]


def test_less_than_a_hundredth_explores_where_that_is_asked() -> None:
    seen, groups = policy(explore_share=0.001), Groups(prompts=12)
    for _ in range(12):
        groups.follow([seen])
    assert 0 < seen.metrics()["explore_probability"] <= 0.001


def test_figures_say_what_became_of_the_groups() -> None:
    seen, groups = policy(slack=0.5), Groups(prompts=12)
    for _ in range(12):
        groups.follow([seen])
        figures = seen.group_metrics()
        fates = [figures[f"{fate}_frac"] for fate in ("stopped", "explored", "continued")]
        assert sum(fates) == pytest.approx(1) and min(fates) >= 0
        assert (figures["stopped_frac"] > 0) == (figures["tokens_saved_frac"] > 0) == ("mean_stop" in figures)
    assert figures["stopped_frac"] > 0.2


def test_figures_are_over_groups_and_not_over_their_completions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupKnowledge, "tokens_saved", lambda self, groups: 100.0 * len(groups))
    seen = policy()
    seen.observe(
        RolloutObservation(
            0, MAXIMUM, [64, 64, 9, 128, 35], [0.0] * 5, [True, True, False, True, False], [0, 0, 0, 1, 2]
        )
    )
    assert seen.group_metrics() == pytest.approx(
        {"stopped_frac": 2 / 3, "explored_frac": 0, "continued_frac": 1 / 3, "tokens_saved_frac": 0.5, "mean_stop": 96}
    )


def known_of(visits: list[list[tuple[str, list[str]]]], label_shares: dict[str, list[float]]) -> GroupKnowledge:
    """What is known after rollouts of prompts with these labels and pasts, where prompts are of two kinds."""
    config = policy().config
    knowledge = GroupKnowledge(config, ENDS)
    kinds = {"success": [[0.0, 0.0, 0.5]] * 2, "failure": [[0.5, 0.5, 0.0], [0.5, 0.0, 0.0]], "shares": [0.5, 0.5]}
    state = {"memory": [], "prompts": [], "knowledge": visits, "kinds": kinds | {"label_shares": label_shares}}
    knowledge.restore(state)
    return knowledge


def test_tokens_are_saved_by_the_unfinished_completions_of_every_kind_that_their_group_may_be_of() -> None:
    knowledge = known_of([], {"first": [1.0, 0.0]})
    stopped, full = ((StageCount(1, 0, 3),) * stages for stages in (1, 3))
    of_first, of_second = 64 * 0.75 + 0.5 * 128 * 0.75, 64 + 128 * 0.75
    assert knowledge.tokens_saved([GroupRecord("first", stopped)] * 2) == pytest.approx(6 * of_first)
    assert knowledge.tokens_saved([GroupRecord("", stopped)]) == pytest.approx(3 * (of_first + of_second) / 2)
    assert knowledge.tokens_saved([GroupRecord("first", full)]) == 0


def test_what_was_known_of_recent_prompts_counts_as_often_as_it_was() -> None:
    rollouts = [[("b", []), ("a", []), ("a", [])], [("a", [])], [("a", []), ("b", ["0 1 3 0 1 2"])]]
    knowledge = known_of(rollouts, {"a": [0.75, 0.25], "b": [0.5, 0.5]})
    priors, shares = knowledge.recent_priors()
    assert priors[:2] == [(0.75, 0.25), (0.5, 0.5)] and priors[2] > (0.5, 0.5)
    assert shares == pytest.approx([4 / 6, 1 / 6, 1 / 6])


def test_many_things_known_of_prompts_are_taken_together_with_those_that_are_alike() -> None:
    chances = [place / 100 for place in range(100)]
    known = {f"{chance:.2f}": [chance, 1 - chance] for chance in chances}
    priors, shares = known_of([[(label, []) for label in known]], known).recent_priors()
    firsts = [first for first, _ in priors]
    assert len(priors) <= 24 and all(sum(prior) == pytest.approx(1) for prior in priors)
    assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
    assert sum(map(operator.mul, shares, firsts)) == pytest.approx(sum(chances) / 100)
    assert max(min(abs(chance - first) for first in firsts) for chance in chances) < 0.05


def test_memory_of_rollouts_and_prompts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyzero_trl.windows.group_memory._MOST_PROMPTS", 20)
    seen = policy()
    for step in range(30):
        keys = [f"{step} {place // SIZE}" for place in range(3 * SIZE)]
        groups = [place // SIZE for place in range(3 * SIZE)]
        rows = len(keys)
        won, cut = [1.0] * rows, [False] * rows
        seen.observe(RolloutObservation(step, MAXIMUM, [30] * rows, won, cut, groups, prompt_keys=keys))
    state = seen.state_dict()
    assert len(state["memory"]) == 8
    assert state["prompts"][-1][0] == "29 2" and len(state["prompts"]) == 20


def test_after_a_checkpoint_the_prompt_that_was_not_met_for_longest_is_still_forgotten_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trainer sorts the names in trainer_state.json."""
    monkeypatch.setattr("tinyzero_trl.windows.group_memory._MOST_PROMPTS", 3)
    pasts, resumed, visit = PromptPasts(), PromptPasts(), (StageCount(1, 0, 0),)
    for key in "cab":
        pasts.add(key, visit)
    resumed.restore(json.loads(json.dumps(pasts.state(), sort_keys=True)))
    for each in (pasts, resumed):
        each.add("d", visit)
    assert resumed.state() == pasts.state() and not pasts.of("c")


def test_changed_stages_start_the_memory_anew() -> None:
    seen, groups = policy(), Groups()
    for _ in range(6):
        groups.follow([seen])
    other = policy(stage_growth=1.5)
    other.load_state_dict(seen.state_dict())
    assert other.state_dict()["memory"] == [] and all(other.go_on([GroupState(0, 64, 0, 0, SIZE)]))


def test_empty_rollouts_teach_nothing() -> None:
    seen = policy()
    seen.observe(RolloutObservation(0, MAXIMUM, [], [], [], []))
    assert seen.go_on([GroupState(0, 64, 0, 0, SIZE)]) == [True]
    assert seen.group_metrics() == {}


def test_groups_that_are_too_large_for_the_backward_induction_are_refused() -> None:
    seen = policy()
    with pytest.raises(ValueError, match=r"^group_rule: 'value' decides on groups of at most 32"):
        seen.observe(RolloutObservation(0, MAXIMUM, [9] * 33, [1.0] * 33, [False] * 33, [0] * 33))
