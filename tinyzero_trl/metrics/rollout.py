"""The figures of one rollout batch, of its importance ratios, and of the run so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tinyzero_trl.windows import RolloutObservation


def rollout_metrics(
    observation: RolloutObservation,
    *,
    prompt_lengths: Sequence[int] | None = None,
    difficulties: Sequence[int] | None = None,
    success_threshold: float = 1.0,
) -> dict[str, float]:
    """Figures of one generation batch, over all rows of all ranks, for every window policy alike.

    Args:
        observation: the gathered batch; every sequence in it has one entry per completion (B rows).
        prompt_lengths: tokens of each row's prompt, (B,); without it, no prompt and overall totals.
        difficulties: operand count of each row's problem, (B,); without it, no `difficulty/` figures.
        success_threshold: a completion is a success (is "correct") when its reward is at least this.

    Success lengths are those under the batch's window, so they are right-censored: a truncated success is
    longer than its length says.

    Raises:
        ValueError: if a sequence does not have one entry per completion.
    """
    lengths = np.asarray(observation.lengths, dtype=np.int64)
    rewards = _column("rewards", observation.rewards, len(lengths)).astype(np.float64)
    truncated = _column("truncated", observation.truncated, len(lengths)).astype(bool)
    groups = _column("groups", observation.groups, len(lengths))
    if len(lengths) == 0:
        return {}
    correct = rewards >= success_threshold
    figures = _window_figures(lengths, correct)
    figures |= _token_figures(lengths, prompt_lengths)
    figures |= _completion_figures(lengths, correct, truncated)
    figures |= _group_figures(groups, rewards, correct)
    if difficulties is not None:
        figures |= _difficulty_figures(_column("difficulties", difficulties, len(lengths)), correct)
    return figures


def _column(name: str, values: Sequence[Any], rows: int) -> NDArray[Any]:
    column = np.asarray(values)
    if column.shape != (rows,):
        raise ValueError(f"{name} has shape {column.shape}: give one entry per completion, ({rows},)")
    return column


def _window_figures(lengths: NDArray[np.int64], correct: NDArray[np.bool_]) -> dict[str, float]:
    figures = {"num_success_samples": float(correct.sum()), "success_rate": float(correct.mean())}
    if correct.any():
        success_lengths = lengths[correct]
        figures["mean_success_length"] = float(success_lengths.mean())
        figures["median_success_length"] = float(np.median(success_lengths))
        figures["std_success_length"] = float(success_lengths.std())
        figures["p95_success_length"] = float(np.quantile(success_lengths, 0.95))
    return {f"adaptive_window/{name}": value for name, value in figures.items()}


def _token_figures(lengths: NDArray[np.int64], prompt_lengths: Sequence[int] | None) -> dict[str, float]:
    response = float(lengths.sum())
    if prompt_lengths is None:
        return {"tokens/response_total": response}
    prompt = float(_column("prompt_lengths", prompt_lengths, len(lengths)).sum())
    return {
        "tokens/prompt_total": prompt,
        "tokens/response_total": response,
        "tokens/overall_total": prompt + response,
    }


def _completion_figures(
    lengths: NDArray[np.int64], correct: NDArray[np.bool_], truncated: NDArray[np.bool_]
) -> dict[str, float]:
    figures = {"truncated_frac": float(truncated.mean()), "finished_frac": float((~truncated).mean())}
    if truncated.any():
        figures["truncated_correct_frac"] = float(correct[truncated].mean())
    if not truncated.all():
        figures["finished_correct_frac"] = float(correct[~truncated].mean())
    if correct.any():
        figures["correct_mean_length"] = float(lengths[correct].mean())
    return {f"completion/{name}": value for name, value in figures.items()}


def _group_figures(groups: NDArray[Any], rewards: NDArray[np.float64], correct: NDArray[np.bool_]) -> dict[str, float]:
    members, group_of_row = np.unique(groups, return_inverse=True)
    highest, lowest = np.full(len(members), -np.inf), np.full(len(members), np.inf)
    np.maximum.at(highest, group_of_row, rewards)
    np.minimum.at(lowest, group_of_row, rewards)
    rows = np.bincount(group_of_row)
    correct_rows = np.bincount(group_of_row, weights=correct)
    return {
        "group/zero_variance_frac": float((highest == lowest).mean()),
        "group/all_correct_frac": float((correct_rows == rows).mean()),
        "group/all_wrong_frac": float((correct_rows == 0).mean()),
    }


def _difficulty_figures(difficulties: NDArray[Any], correct: NDArray[np.bool_]) -> dict[str, float]:
    figures = {}
    for operands in np.unique(difficulties).tolist():
        chosen = difficulties == operands
        figures[f"difficulty/{operands}_acc"] = float(correct[chosen].mean())
        figures[f"difficulty/{operands}_count"] = float(chosen.sum())
    return figures


def ratio_metrics(
    log_ratios: NDArray[np.floating[Any]],
    *,
    clip_low: float,
    clip_high: float,
    mask: NDArray[Any] | None = None,
) -> dict[str, float]:
    """Figures of the importance ratios exp(log pi_new - log pi_old), one per completion token.

    Args:
        log_ratios: new-minus-old log-probabilities of every completion token of the step, over all ranks;
            any shape.
        clip_low: distance of the lower clip bound from 1 (PPO's epsilon, TRL's `epsilon`).
        clip_high: distance of the upper clip bound from 1 (DAPO's epsilon-high, TRL's `epsilon_high`).
        mask: same shape, true where a token counts; every token counts without it.

    Returns:
        The `actor/` figures; empty when no token counts.
    """
    flat = np.asarray(log_ratios, dtype=np.float64)
    flat = flat.ravel() if mask is None else flat[np.asarray(mask, dtype=bool)]
    if flat.size == 0:
        return {}
    with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges is logged, not warned about
        ratios = np.exp(flat)
        outside = (ratios < 1 - clip_low) | (ratios > 1 + clip_high)
        return {
            "actor/is_ratio/mean": float(ratios.mean()),
            "actor/is_ratio/std": float(ratios.std()),
            "actor/is_ratio/p95": float(np.quantile(ratios, 0.95)),
            "actor/is_log_ratio/mean": float(flat.mean()),
            "actor/is_log_ratio/std": float(flat.std()),
            "actor/is_clip/outside_frac": float(outside.mean()),
        }


@dataclass
class RunningTotals:
    """What a run has used and earned since its first rollout: state plus arithmetic, saved in checkpoints.

    `ema_beta` weighs the past in the smoothed success rate; the average starts at 0 and is divided by
    1 - ema_beta ** rollouts, so that the first value is the first batch's rate.
    """

    ema_beta: float = 0.9
    rollouts: int = 0
    completions: int = 0
    successes: int = 0
    response_tokens: int = 0
    reward_sum: float = 0.0
    mean_reward_sum: float = 0.0
    success_rate_average: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.ema_beta < 1:
            raise ValueError(f"ema_beta = {self.ema_beta}: must lie in [0, 1), such as 0.9")

    def update(self, observation: RolloutObservation, *, success_threshold: float = 1.0) -> None:
        """Add one gathered generation batch; a batch without completions changes nothing."""
        rewards = [float(reward) for reward in observation.rewards]
        if not rewards:
            return
        successes = sum(reward >= success_threshold for reward in rewards)
        self.rollouts += 1
        self.completions += len(rewards)
        self.successes += successes
        self.response_tokens += sum(int(length) for length in observation.lengths)
        self.reward_sum += sum(rewards)
        self.mean_reward_sum += sum(rewards) / len(rewards)
        rate = successes / len(rewards)
        self.success_rate_average = self.ema_beta * self.success_rate_average + (1 - self.ema_beta) * rate

    def metrics(self) -> dict[str, float]:
        """The totals under their logged names; the two rates are absent before the first rollout."""
        figures = {
            "tokens/response_cumulative": float(self.response_tokens),
            "adaptive_window/cumulative_reward": self.reward_sum,
            "train/cumulative_reward": self.mean_reward_sum,
        }
        if self.rollouts:
            figures["adaptive_window/cumulative_success_rate"] = self.successes / self.completions
            correction = 1 - self.ema_beta**self.rollouts
            figures["adaptive_window/success_rate_ema"] = self.success_rate_average / correction
        return figures

    def state_dict(self) -> dict[str, float]:
        """The whole state, JSON-serialisable."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: if the keys are not exactly the fields of this class.
        """
        names = {field.name for field in fields(self)}
        if set(state) != names:
            raise ValueError(f"running totals hold {sorted(state)}: expected {sorted(names)} (another version's?)")
        for name, value in state.items():
            setattr(self, name, value)
