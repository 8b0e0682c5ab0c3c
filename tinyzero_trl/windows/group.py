"""One decision per group: a rollout is sampled in stages, and at the end of each a group goes on or stops.

See `stopping` for the rule, `kinds` for what a group tells of its prompt, `fidelity` for what counts as gain,
`exploration` for the groups that go on against the rule.

What a decision knows: how many completions of the group have succeeded, failed, or are unfinished; the label of the
prompt; and what the prompt's own earlier visits showed. The older they are, the less they count: the model has changed.

Before enough is known all groups go on: until `min_groups` groups have been followed to their end, with `min_samples`
successes, and `min_samples` completions into the last stage. If later so much is no longer remembered, a tenth of the
groups explores until it is.

Price. With `group_price: seconds` a decoding step costs a + b x rows, fitted to the timings of the rollouts. Each group
pays for its rows, as for tokens; all groups that go on pay together for the a seconds of every step of a stage, so that
a few groups with little to gain do not go on alone. They all stop only where no more than `slack` of the rollout's
successes are lost in all.

Limits. (1) Rewards are binary at `success_threshold`. (2) Groups of up to 32 completions: the steps of the backward
induction grow with the fourth power of their number. (3) A cut that depends on siblings makes the reward of a
completion depend on them (docs/windows.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from tinyzero_trl.windows.exploration import Exploration
from tinyzero_trl.windows.group_config import GroupConfig
from tinyzero_trl.windows.group_knowledge import GroupKnowledge
from tinyzero_trl.windows.kinds import GroupRecord
from tinyzero_trl.windows.policy import GroupState, RolloutObservation, WindowPolicy
from tinyzero_trl.windows.registry import register_policy
from tinyzero_trl.windows.step_cost import StepCost
from tinyzero_trl.windows.stopping import Rule, StoppingProblem, best_price, mean_expected

_AFRESH_EVERY = 4  # rollouts


@dataclass
class _RolloutSoFar:
    """What has become of the groups of the rollout that goes on."""

    explored: set[int] = field(default_factory=set)  # groups that went on against the rule
    successes_lost: float = 0.0  # by the groups that have stopped


@register_policy("group", config=GroupConfig)
class GroupWindow(WindowPolicy[GroupConfig]):
    """Rollouts at `max`, in stages; groups from which too little is to be expected stop early."""

    STATE = ("_rollouts", "_price", "_figures", "_successes_expected")

    def __init__(self, config: GroupConfig) -> None:
        super().__init__(config)
        self._ends = config.stage_ends()
        self._knowledge = GroupKnowledge(config, self._ends)
        self._exploration = Exploration(config)
        self._step_cost = StepCost()
        self._rollouts = 0
        self._price: float | None = None  # in explained units per token; None while all go on
        self._successes_expected = 0.0  # in a rollout
        self._figures: dict[str, float] = {}
        self._so_far = _RolloutSoFar()
        self._problem: StoppingProblem | None = None  # for what is known now

    @property
    def stages(self) -> tuple[int, ...]:
        """Ends of the stages, the same for every rollout."""
        return self._ends

    def go_on(self, states: Sequence[GroupState]) -> list[bool]:
        """See `WindowPolicy.go_on`: by the rule, or because the group explores."""
        if states and states[0].stage_end == self._ends[0]:
            self._so_far = _RolloutSoFar()
        drawn = [self._exploration.is_drawn(self._rollouts, state.group) for state in states]
        pays = self._pays(states, drawn)
        decided = list(zip(states, pays, drawn, strict=True))
        self._so_far.explored |= {state.group for state, paid, explores in decided if explores and not paid}
        return [state.unfinished > 0 and (paid or explores) for state, paid, explores in decided]

    def metrics(self) -> dict[str, float]:
        """Adds the price of a token and the probability of exploring, once groups may stop; and the price of a step."""
        figures = super().metrics()
        if self._price is not None:
            figures |= {"token_price": self._price, "explore_probability": self._exploration.probability}
        if self.config.group_price == "seconds":
            figures["rows_per_step"] = self._step_cost.rows_per_step
        return figures

    def group_metrics(self) -> dict[str, float]:
        """Fractions of the groups of the last rollout, and of the tokens that stops have saved."""
        return dict(self._figures)

    def state_dict(self) -> dict[str, Any]:
        """Adds what is remembered, and what has been made of it."""
        return super().state_dict() | {
            **self._knowledge.state(),
            "explore_probability": self._exploration.probability,
            "step_cost": self._step_cost.state(),
            "ends": list(self._ends),
            "gain": asdict(self.config.gain),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue; where the stages have changed, the figures are kept and the groups are learned anew.

        A price of other gains, and what was drawn by another rule, are dropped.
        """
        super().load_state_dict(state)
        self._so_far, self._problem = _RolloutSoFar(), None
        if self.config.group_rule == "value":
            self._exploration.probability = state["explore_probability"]
        self._step_cost.restore(state["step_cost"])
        has_other_stages = state["ends"] != list(self._ends)
        if has_other_stages or state.get("gain", asdict(self.config.gain)) != asdict(self.config.gain):
            self._price = None
        if not has_other_stages:
            self._knowledge.restore(state)

    def choose_window(self) -> float:
        """See `WindowPolicy.choose_window`."""
        return self._largest

    def learn(self, observation: RolloutObservation) -> None:
        """See `WindowPolicy.learn`."""
        self._rollouts += 1
        self._problem = None
        self._step_cost.add(observation.timings)
        groups = self._knowledge.learn(observation, also_afresh=self._rollouts % _AFRESH_EVERY == 0)
        if groups:
            size = max(group.size for group in groups)
            self.config.check_group_size(size)
            self._figures = self._fates(observation, groups)
            self._set_price(size, len(set(observation.groups)))
        self._so_far = _RolloutSoFar()

    # --- decisions ----------------------------------------------------------------------------------------------

    def _pays(self, states: Sequence[GroupState], drawn: Sequence[bool]) -> list[bool]:
        """Whether the rule lets each group go on; some are drawn to explore."""
        if self.config.group_rule == "plain":
            return [state.successes > 0 for state in states]
        if self._price is None:
            return [True] * len(states)
        stages = {end: stage for stage, end in enumerate(self._ends)}
        asked = [(self._rule_for(state), stages[state.stage_end], state.successes, state.failures) for state in states]
        pays = [rule.goes_on(*place) for rule, *place in asked]
        return pays if self.config.group_price == "tokens" else self._with_steps_paid(states, asked, pays, drawn)

    def _with_steps_paid(
        self,
        states: Sequence[GroupState],
        asked: Sequence[tuple[Rule, int, int, int]],
        pays: list[bool],
        drawn: Sequence[bool],
    ) -> list[bool]:
        """The same answers, or a stop of all groups that are not worth the steps of the next stage.

        They go on nevertheless where too many successes would be lost, or where a group that explores takes the steps.
        """
        to_come = [rule.successes_to_come(*place) for rule, *place in asked]
        is_bearable = self._so_far.successes_lost + sum(to_come) <= self.config.slack * self._successes_expected
        if states and is_bearable and not any(drawn):
            margin = sum(rule.margin(*place) for (rule, *place), paid in zip(asked, pays, strict=True) if paid)
            if margin < self._cost_of_steps(states[0].stage_end):
                pays = [False] * len(states)
        decided = zip(to_come, pays, drawn, strict=True)
        self._so_far.successes_lost += sum(late for late, paid, explores in decided if not paid and not explores)
        return pays

    def _cost_of_steps(self, end: int) -> float:
        """What the groups that go on must be worth together, because the next stage's steps themselves take time.

        A second of a rollout earns what its tokens earn in all, over the time of its rows and of its steps.
        """
        assert self._price is not None, "asked once groups may stop"
        steps = self._ends[self._ends.index(end) + 1] - end
        return self._price * self._step_cost.share_of_rows * self._step_cost.rows_per_step * steps

    def _rule_for(self, state: GroupState) -> Rule:
        """The rule for what is known of the prompt."""
        assert self._price is not None, "asked once groups may stop"
        problem = self._stopping_problem(state.successes + state.failures + state.unfinished)
        return problem.rule(self._knowledge.prior(state.label, state.prompt_key), self._price)

    def _stopping_problem(self, size: int) -> StoppingProblem:
        """The same object until the next rollout is learned from, or groups have another size."""
        if self._problem is None or self._problem.size != size:
            self._problem = StoppingProblem(self._knowledge.kinds, self._ends, size, self.config.gain)
        return self._problem

    # --- learning -----------------------------------------------------------------------------------------------

    def _set_price(self, size: int, groups: int) -> None:
        """The price for the next rollout, how many groups explore in it, and the successes that it promises."""
        enough = self._knowledge.is_enough
        may_stop = enough or (self._price is not None and self.config.explore_share > 0)
        if not may_stop or self.config.group_rule == "plain":
            self._price = None
            return
        problem = self._stopping_problem(size)
        priors, shares = self._knowledge.recent_priors()
        situations = [problem.situation(prior) for prior in priors]
        self._price = best_price(situations, shares, self.config.slack, self._price)
        rule, full = (mean_expected(situations, shares, price) for price in (self._price, 0.0))
        self._successes_expected = groups * rule.successes
        self._exploration.adapt(rule, full, enough_is_known=enough)

    def _fates(self, observation: RolloutObservation, groups: Sequence[GroupRecord]) -> dict[str, float]:
        """What became of the groups of a rollout."""
        judged, stops = set(observation.groups), observation.group_stops
        count, explored = len(judged), len(self._so_far.explored & judged)
        spent, saved = sum(observation.lengths), self._knowledge.tokens_saved(groups)
        return {
            "stopped_frac": len(stops) / count,
            "explored_frac": explored / count,
            "continued_frac": 1 - (len(stops) + explored) / count,
            "tokens_saved_frac": saved / max(saved + spent, 1.0),
            **({"mean_stop": fmean(stops.values())} if stops else {}),
        }
