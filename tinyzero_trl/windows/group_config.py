"""The fields of the policy that decides per group."""

from dataclasses import dataclass

from tinyzero_trl.windows.config import WindowConfig
from tinyzero_trl.windows.fidelity import LOSSES_BY_SEQUENCE, Gain
from tinyzero_trl.windows.fields import choice, flag, number, of_trainer, shown, text

_LARGEST_GROUP = 32  # completions; the steps of the backward induction grow with their fourth power


@dataclass(frozen=True, kw_only=True)
class GroupConfig(WindowConfig):
    """What the policy knows, what counts as gain, and where it looks.

    The last five are those of the trainer, which fills them in.
    """

    slack: float = number(0.02, "largest share of the successes that stops may lose", low=0, below=1)
    min_samples: int = number(
        10, "no group stops before so many successes, and completions in the last stage, are known", low=1
    )
    min_groups: int = number(16, "no group stops before so many groups have been followed to their end", low=1)
    memory_rollouts: int = number(24, "number of newest rollouts that count", low=1)
    label_column: str = text(
        "", "column of the data that tells kinds of prompts apart, such as difficulty; empty: none"
    )
    prompt_memory: bool = flag(True, "whether earlier results of the same prompt count")
    group_rule: str = choice(
        "value", "value lets groups go on by expected gain, plain after a success", ("value", "plain")
    )
    group_gain: str = choice("loss", "loss sums the gain as loss_type does", ("loss", "tokens", "sequences"))
    group_price: str = choice("tokens", "unit in which the cost of a group is counted", ("tokens", "seconds"))
    first_stage: int = number(32, "end of the first stage in tokens; the plain rule takes `initial` instead", low=1)
    stage_growth: float = number(1.5, "each stage ends at this many times the end of the stage before", low=1.1)
    explore_share: float = number(
        0.05,
        "tokens for exploring groups, per token spent or saved (the smaller); plain: share of the groups",
        low=0,
        high=1,
    )
    loss_type: str = of_trainer("dapo", "how the loss weighs tokens and sequences")
    scale_rewards: str = of_trainer("group", "what divides the advantages")
    multi_objective_aggregation: str = of_trainer("sum_then_normalize", "whether rewards are scaled one by one")
    mask_truncated_completions: bool = of_trainer(False, "whether completions that are cut have no part in the loss")
    num_generations: int = of_trainer(8, "completions of a group")

    def __post_init__(self) -> None:
        """Also refuse groups that are too large."""
        super().__post_init__()
        self.check_group_size(self.num_generations)

    def check_group_size(self, completions: int) -> None:
        """The backward induction must not take longer than what it saves.

        Raises:
            ValueError: the rule is by value, and a group has more completions than that allows.
        """
        if self.group_rule == "value" and completions > _LARGEST_GROUP:
            raise ValueError(
                f"{shown('group_rule')}: 'value' decides on groups of at most {_LARGEST_GROUP} completions, and there "
                f"are {completions}; set it to plain, or lower num_generations"
            )

    @property
    def gain(self) -> Gain:
        """What counts as gain, by the loss unless it was chosen."""
        by_tokens = (
            self.loss_type not in LOSSES_BY_SEQUENCE if self.group_gain == "loss" else self.group_gain == "tokens"
        )
        scaled = self.scale_rewards == "group" or self.multi_objective_aggregation == "normalize_then_sum"
        return Gain(by_tokens=by_tokens, scaled=scaled, of_cut=not self.mask_truncated_completions)

    def stage_ends(self) -> tuple[int, ...]:
        """Ends of the stages in tokens, strictly ascending, up to `max`; the plain rule looks once, at `initial`."""
        if self.group_rule == "plain":
            return tuple(sorted({self.initial, self.largest}))
        ends, end = {self.largest}, float(self.first_stage)
        while end * self.stage_growth**0.5 < self.largest:
            ends.add(round(end))  # short stages that grow slowly end at the same token
            end *= self.stage_growth
        return tuple(sorted(ends))
