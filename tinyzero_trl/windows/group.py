"""One decision per group: a rollout is sampled in stages, and at the end of each a group goes on or stops.

See `stopping` for the rule, `kinds` for what a group tells of its prompt, `fidelity` for what counts as gain.

What a decision knows: how many completions of the group have succeeded, failed, or are unfinished; the label of the
prompt; and what the prompt's own earlier visits showed. The older they are, the less they count: the model has changed.

Exploration. What lies beyond a stop must stay measured. So each group is drawn at the start of a rollout with a small
known probability; a group that is drawn goes on to the end, whatever the rule says. The probability is such that
the tokens added are expected to be `explore_share` of those that the rule spends or of those that it saves, whichever
is less. The draw depends on `seed`, on the number of the rollout and on the group's place alone.

Before enough is known all groups go on: until `min_groups` groups have been followed to their end, with `min_samples`
successes, and `min_samples` completions into the last stage. If later so much is no longer remembered, a tenth of the
groups explores until it is.

Price. With `group_price: seconds` a decoding step costs a + b x rows, fitted to the timings of the rollouts. Each group
pays for its rows, as for tokens; all groups that go on pay together for the a seconds of every step of a stage, so that
a few groups with little to gain do not go on alone. They all stop only where no more than `slack` of the rollout's
successes are lost in all. A single group that explores takes all the steps, so groups explore together: in one rollout
of eight, and there eight times as often (with `memory_rollouts: 24`; three of the remembered rollouts explore).

Limits. (1) Rewards are binary at `success_threshold`. (2) Groups of up to 32 completions: the cost of the backward
induction grows with the fourth power of their number. (3) A cut that depends on siblings makes the reward of a
completion depend on them (docs/windows.md).
"""

import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tinyzero_trl.windows.group_config import GroupConfig
from tinyzero_trl.windows.group_memory import PromptPasts, RecentGroups, Visit, as_text, from_text, group_records
from tinyzero_trl.windows.kinds import PromptKinds
from tinyzero_trl.windows.policy import GroupState, RolloutObservation, WindowPolicy
from tinyzero_trl.windows.registry import register_policy
from tinyzero_trl.windows.step_cost import StepCost
from tinyzero_trl.windows.stopping import Rule, StoppingProblem, best_price, mean_expected

_POWER_OF_THE_PAST = 0.5  # of the last visit; its square of the one before
_AFRESH_EVERY = 4  # rollouts
_PRIOR_STEPS = 4  # what a prompt's past tells is rounded to quarters, so that prompts share a solution
_ROLLOUTS_FOR_THE_PRICE = 8  # whose prompts stand for those of the next
_MOST_SITUATIONS = 16
_LEAST_EXPLORING, _EXPLORING_TO_CATCH_UP = 0.01, 0.1  # probabilities
_EXPLORE_TOGETHER = 3  # rollouts of those that are remembered, where a step has a price


@register_policy("group", config=GroupConfig)
class GroupWindow(WindowPolicy[GroupConfig]):
    """Rollouts at `max`, in stages; groups from which too little is to be expected stop early."""

    STATE = ("_rollouts", "_explore_probability", "_price", "_group_size", "_figures", "_successes_expected")

    def __init__(self, config: GroupConfig) -> None:
        super().__init__(config)
        self._ends = config.stage_ends()
        self._kinds = PromptKinds(len(self._ends))
        self._recent = RecentGroups(config.memory_rollouts)
        self._pasts = PromptPasts()
        self._knowledge: deque[list[tuple[str, list[Visit]]]] = deque(maxlen=_ROLLOUTS_FOR_THE_PRICE)
        self._step_cost = StepCost()
        self._rollouts = 0
        self._explore_probability = config.explore_share
        self._price: float | None = None  # in explained units per token; None while all go on
        self._successes_expected = 0.0  # in a rollout
        self._successes_lost = 0.0  # in the current rollout, by the groups that have stopped
        self._group_size = 0
        self._figures: dict[str, float] = {}
        self._explored: set[int] = set()  # groups of the current rollout that went on against the rule
        self._rules: dict[tuple[float, ...], Rule] = {}
        self._problem: StoppingProblem | None = None

    @property
    def stages(self) -> tuple[int, ...]:
        """Ends of the stages, the same for every rollout."""
        return self._ends

    def go_on(self, states: Sequence[GroupState]) -> list[bool]:
        """See `WindowPolicy.go_on`: by the rule, or because the group explores."""
        if states and states[0].stage_end == self._ends[0]:
            self._explored, self._successes_lost = set(), 0.0
        pays = self._pays(states)
        explores = [not paid and self._is_drawn(state.group) for state, paid in zip(states, pays, strict=True)]
        self._explored |= {state.group for state, exploring in zip(states, explores, strict=True) if exploring}
        return [
            state.unfinished > 0 and (paid or exploring)
            for state, paid, exploring in zip(states, pays, explores, strict=True)
        ]

    def metrics(self) -> dict[str, float]:
        """Adds the price of a token and the probability of exploring, once groups may stop; and the price of a step."""
        figures = super().metrics()
        if self._price is not None:
            figures |= {"token_price": self._price, "explore_probability": self._explore_probability}
        if self.config.group_price == "seconds":
            figures["rows_per_step"] = self._step_cost.rows_per_step
        return figures

    def group_metrics(self) -> dict[str, float]:
        """Fractions of the groups of the last rollout, and of the tokens that stops have saved."""
        return dict(self._figures)

    def state_dict(self) -> dict[str, Any]:
        """Adds what is remembered, and what has been made of it."""
        return super().state_dict() | {
            "memory": self._recent.state(),
            "prompts": self._pasts.state(),
            "knowledge": [[[label, as_text(visits)] for label, visits in each] for each in self._knowledge],
            "kinds": self._kinds.state(),
            "step_cost": self._step_cost.state(),
            "ends": list(self._ends),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue; where the stages have changed, the figures are kept and the groups are learned anew."""
        super().load_state_dict(state)
        self._explored, self._rules, self._problem = set(), {}, None
        self._step_cost.restore(state["step_cost"])
        if state["ends"] != list(self._ends):
            self._price = None
            return
        self._recent.restore(state["memory"])
        self._pasts.restore(state["prompts"])
        self._knowledge.clear()
        self._knowledge.extend([(label, from_text(visits)) for label, visits in each] for each in state["knowledge"])
        self._kinds.restore(state["kinds"])

    def choose_window(self) -> float:
        """See `WindowPolicy.choose_window`."""
        return self._largest

    # --- decisions ----------------------------------------------------------------------------------------------

    def _pays(self, states: Sequence[GroupState]) -> list[bool]:
        """Whether the rule lets each group go on."""
        if self.config.group_rule == "plain":
            return [state.successes > 0 for state in states]
        if self._price is None:
            return [True] * len(states)
        stages = {end: stage for stage, end in enumerate(self._ends)}
        asked = [(self._rule_for(state), stages[state.stage_end], state.successes, state.failures) for state in states]
        pays = [rule.goes_on(*state) for rule, *state in asked]
        return pays if self.config.group_price == "tokens" else self._with_steps_paid(states, asked, pays)

    def _with_steps_paid(
        self, states: Sequence[GroupState], asked: Sequence[tuple[Rule, int, int, int]], pays: list[bool]
    ) -> list[bool]:
        """The same answers, or a stop of all groups that are not worth the steps of the next stage.

        They go on nevertheless where too many successes would be lost, or where a group that explores takes the steps.
        """
        drawn = [self._is_drawn(state.group) for state in states]
        to_come = [rule.successes_to_come(*place) for rule, *place in asked]
        is_bearable = self._successes_lost + sum(to_come) <= self.config.slack * self._successes_expected
        if states and is_bearable and not any(drawn):
            margin = sum(rule.margin(*place) for (rule, *place), paid in zip(asked, pays, strict=True) if paid)
            if margin < self._cost_of_steps(states[0].stage_end):
                pays = [False] * len(states)
        decided = zip(to_come, pays, drawn, strict=True)
        self._successes_lost += sum(late for late, paid, explores in decided if not paid and not explores)
        return pays

    def _cost_of_steps(self, end: int) -> float:
        """What the groups that go on must be worth together, because the next stage's steps themselves take time.

        A second of a rollout earns what its tokens earn in all, over the time of its rows and of its steps.
        """
        assert self._price is not None, "asked once groups may stop"
        steps = self._ends[self._ends.index(end) + 1] - end
        return self._price * self._step_cost.share_of_rows * self._step_cost.rows_per_step * steps

    def _rule_for(self, state: GroupState) -> Rule:
        """The rule for what is known of the prompt, solved once a rollout for every rounded prior."""
        problem = self._stopping_problem(state.successes + state.failures + state.unfinished)
        prior = self._prior(state.label, self._pasts.of(state.prompt_key))
        if prior not in self._rules:
            assert self._price is not None, "asked once groups may stop"
            self._rules[prior] = problem.situation(prior).solve(self._price)
        return self._rules[prior]

    def _stopping_problem(self, size: int) -> StoppingProblem:
        """The same object until the kinds are learned anew, or groups have another size."""
        if self._problem is None or self._problem.size != size:
            self._rules, self._problem = {}, StoppingProblem(self._kinds, self._ends, size, self.config.gain)
        return self._problem

    def _prior(self, label: str, visits: Sequence[Visit]) -> tuple[float, ...]:
        """Probability of each kind before the rollout: by the label, and by what the prompt showed in the past."""
        prior = self._kinds.prior(label)
        if not visits:
            return tuple(prior)
        for place, visit in enumerate(visits, start=1):
            prior = self._kinds.posterior(prior, visit, _POWER_OF_THE_PAST**place)
        steps = [round(_PRIOR_STEPS * share) for share in prior]
        steps = steps if any(steps) else [int(share == max(prior)) for share in prior]
        return tuple(count / sum(steps) for count in steps)

    def _is_drawn(self, group: int) -> bool:
        """Whether a group explores if the rule would stop it: known from its place and the number of the rollout."""
        probability = self._explore_probability
        if self.config.group_price == "seconds":
            most = int(1 / probability) if probability else 1  # beyond it, fewer would explore than is asked
            rollouts = max(1, min(self.config.memory_rollouts // _EXPLORE_TOGETHER, most))
            lap, place = divmod(self._rollouts, rollouts)
            explores = place == random.Random(f"{self.config.seed} {lap}").randrange(rollouts)
            probability *= rollouts * explores
        return random.Random(f"{self.config.seed} {self._rollouts} {group}").random() < probability

    # --- learning -----------------------------------------------------------------------------------------------

    def learn(self, observation: RolloutObservation) -> None:
        """See `WindowPolicy.learn`."""
        self._rollouts += 1
        self._rules, self._problem = {}, None
        records = group_records(observation, self._ends, self.config.success_threshold)
        self._step_cost.add(observation.timings)
        if records:
            self._recent.add(record for record, _ in records)
            self._kinds.fit(*self._recent.weighted(), also_afresh=self._rollouts % _AFRESH_EVERY == 0)
            self._figures = self._group_figures(observation, records)
            self._knowledge.append([(record.label, self._pasts.of(key)) for record, key in records])
            for record, key in records:
                if key and self.config.prompt_memory:
                    self._pasts.add(key, record.stages)
            self._group_size = max(record.size for record, _ in records)
            self.config.check_group_size(self._group_size)
            self._set_price(groups=len(set(observation.groups)))
        self._explored = set()

    def _set_price(self, groups: int) -> None:
        """The price for the next rollout, how many groups explore in it, and the successes that it promises."""
        enough = self._recent.is_enough(len(self._ends), self.config.min_groups, self.config.min_samples)
        share = self.config.explore_share
        may_stop = enough or (self._price is not None and share > 0)
        if not may_stop or self.config.group_rule == "plain":
            self._price = None
            return
        problem = self._stopping_problem(self._group_size)
        priors = Counter(self._prior(label, visits) for rollout in self._knowledge for label, visits in rollout)
        most = sorted(priors.items(), key=lambda each: (-each[1], each[0]))[:_MOST_SITUATIONS]
        situations = [problem.situation(prior) for prior, _ in most]
        shares = [count / sum(count for _, count in most) for _, count in most]
        self._price = best_price(situations, shares, self.config.slack, self._price)
        rule, full = (mean_expected(situations, shares, price) for price in (self._price, 0.0))
        self._successes_expected = groups * rule.successes
        if not enough:
            self._explore_probability = _EXPLORING_TO_CATCH_UP
        elif share:
            per_token_saved = rule.tokens / max(full.tokens - rule.tokens, 1e-9)
            self._explore_probability = max(_LEAST_EXPLORING, share * min(1.0, per_token_saved))
        else:
            self._explore_probability = 0.0

    def _group_figures(self, observation: RolloutObservation, records: Any) -> dict[str, float]:
        groups, stops = len(set(observation.groups)), observation.group_stops
        stopped = len(stops)
        explored = len(self._explored)
        spent, saved = sum(observation.lengths), self._tokens_saved(record for record, _ in records)
        return {
            "stopped_frac": stopped / groups,
            "explored_frac": explored / groups,
            "continued_frac": 1 - (stopped + explored) / groups,
            "tokens_saved_frac": saved / max(saved + spent, 1.0),
            **({"mean_stop": fmean(stops.values())} if stops else {}),
        }

    def _tokens_saved(self, records: Any) -> float:
        """What the unfinished completions of stopped groups would have taken, by the kinds that explain each group."""
        rest = self._kinds.remaining_tokens(self._ends)
        saved = 0.0
        for record in records:
            kinds = self._kinds.posterior(self._kinds.prior(record.label), record.stages)
            stage, unfinished = len(record.stages) - 1, record.stages[-1].unfinished
            saved += unfinished * sum(share * tokens[stage] for share, tokens in zip(kinds, rest, strict=True))
        return saved
