"""The figures of one rollout batch, of its importance ratios, and of the run so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinyzero_trl.metrics.labels import Label, labels_of
from tinyzero_trl.windows.outcomes import FULL_REWARD, is_success, outcomes

if TYPE_CHECKING:
    from tinyzero_trl.windows import RolloutObservation


def rollout_metrics(
    observation: RolloutObservation,
    *,
    prompt_lengths: Sequence[int] | None = None,
    difficulties: Sequence[Label] | None = None,
    success_threshold: float = FULL_REWARD,
) -> dict[str, float]:
    """Figures of one generation batch, over all completions of all ranks, for every window policy alike.

    Args:
        observation: the gathered batch; every sequence in it has one entry per completion (B).
        prompt_lengths: tokens of each completion's prompt, (B,); without it, no prompt and overall totals.
        difficulties: label of each completion's problem, such as its operand count, (B,); without it, no
            `difficulty/` figures.
        success_threshold: a completion is a success (is "correct") when its reward is at least this.

    A completion that was not judged (its reward is None) counts in tokens, lengths and truncation. It is left out of
    numerator and denominator of every figure that asks for its reward. Success lengths are those under the batch's
    window, so they are right-censored: a truncated success is longer than its length says.

    Raises:
        ValueError: if a sequence does not have one entry per completion.
    """
    batch = _Batch.of(observation, success_threshold)
    if len(batch.lengths) == 0:
        return {}
    figures = _window_figures(batch) | _token_figures(batch, prompt_lengths) | _completion_figures(batch)
    figures |= _group_figures(batch)
    if difficulties is not None:
        figures |= _difficulty_figures(batch, difficulties)
    return {name: value for name, value in figures.items() if value is not None}


@dataclass(frozen=True)
class _Batch:
    """An observation as arrays, (B,) each; `rewards` is NaN and `correct` False where `judged` is False."""

    lengths: NDArray[np.int64]
    rewards: NDArray[np.float64]
    truncated: NDArray[np.bool_]
    groups: NDArray[Any]
    judged: NDArray[np.bool_]
    correct: NDArray[np.bool_]

    @classmethod
    def of(cls, observation: RolloutObservation, success_threshold: float) -> _Batch:
        size = len(observation.lengths)
        found = outcomes(observation.rewards, success_threshold)
        rewards = [np.nan if reward is None else reward for reward in observation.rewards]
        return cls(
            lengths=np.asarray(observation.lengths, dtype=np.int64),
            rewards=_column("rewards", rewards, size).astype(np.float64),
            truncated=_column("truncated", observation.truncated, size).astype(bool),
            groups=_column("groups", observation.groups, size),
            judged=np.array([outcome is not None for outcome in found], dtype=bool),
            correct=np.array([bool(outcome) for outcome in found], dtype=bool),
        )

    def correct_frac(self, chosen: NDArray[np.bool_]) -> float | None:
        """The share of correct completions among the judged ones that are `chosen`, (B,)."""
        counted = self.judged & chosen
        return float(self.correct[counted].mean()) if counted.any() else None


def _column(name: str, values: Sequence[Any], size: int) -> NDArray[Any]:
    column = np.asarray(values)
    if column.shape != (size,):
        raise ValueError(f"{name} has shape {column.shape}: give one entry per completion, ({size},)")
    return column


def _window_figures(batch: _Batch) -> dict[str, float | None]:
    if not batch.judged.any():
        return {}
    figures = {
        "num_success_samples": float(batch.correct.sum()),
        "success_rate": float(batch.correct[batch.judged].mean()),
    }
    if batch.correct.any():
        success_lengths = batch.lengths[batch.correct]
        figures["mean_success_length"] = float(success_lengths.mean())
        figures["median_success_length"] = float(np.median(success_lengths))
        figures["std_success_length"] = float(success_lengths.std())
        figures["p95_success_length"] = float(np.quantile(success_lengths, 0.95))
    return {f"adaptive_window/{name}": value for name, value in figures.items()}


def _token_figures(batch: _Batch, prompt_lengths: Sequence[int] | None) -> dict[str, float | None]:
    response = float(batch.lengths.sum())
    if prompt_lengths is None:
        return {"tokens/response_total": response}
    prompt = float(_column("prompt_lengths", prompt_lengths, len(batch.lengths)).sum())
    return {
        "tokens/prompt_total": prompt,
        "tokens/response_total": response,
        "tokens/overall_total": prompt + response,
    }


def _completion_figures(batch: _Batch) -> dict[str, float | None]:
    return {
        "completion/truncated_frac": float(batch.truncated.mean()),
        "completion/finished_frac": float((~batch.truncated).mean()),
        "completion/truncated_correct_frac": batch.correct_frac(batch.truncated),
        "completion/finished_correct_frac": batch.correct_frac(~batch.truncated),
        "completion/correct_mean_length": float(batch.lengths[batch.correct].mean()) if batch.correct.any() else None,
    }


def _group_figures(batch: _Batch) -> dict[str, float | None]:
    """Shares of the groups that have a judged completion."""
    rewards, correct = batch.rewards[batch.judged], batch.correct[batch.judged]
    if not len(rewards):
        return {}
    members, group_of = np.unique(batch.groups[batch.judged], return_inverse=True)
    highest, lowest = np.full(len(members), -np.inf), np.full(len(members), np.inf)
    np.maximum.at(highest, group_of, rewards)
    np.minimum.at(lowest, group_of, rewards)
    sizes, successes = np.bincount(group_of), np.bincount(group_of, weights=correct)
    return {
        "group/zero_variance_frac": float((highest == lowest).mean()),
        "group/all_correct_frac": float((successes == sizes).mean()),
        "group/all_wrong_frac": float((successes == 0).mean()),
    }


def _difficulty_figures(batch: _Batch, difficulties: Sequence[Label]) -> dict[str, float | None]:
    _column("difficulties", difficulties, len(batch.lengths))
    figures: dict[str, float | None] = {}
    for label in labels_of(difficulties):
        chosen = np.array([each == label for each in difficulties])
        figures[f"difficulty/{label}_acc"] = batch.correct_frac(chosen)
        figures[f"difficulty/{label}_count"] = float(chosen.sum())
        figures[f"difficulty/{label}_mean_length"] = float(batch.lengths[chosen].mean())
    return figures


def ratio_metrics(
    log_ratios: NDArray[np.floating[Any]],
    *,
    clip_range: tuple[float, float] | None,
) -> dict[str, float]:
    """Figures of the importance ratios exp(log pi_new - log pi_old), one per completion token.

    Args:
        log_ratios: new-minus-old log-probabilities of every completion token of the step, over all ranks, (N,).
        clip_range: the interval outside of which the loss clips the ratio of a token; None where it clips none.

    Returns:
        The `actor/` figures; empty without a token.
    """
    if log_ratios.size == 0:
        return {}
    with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges is logged, not warned about
        log_ratios = log_ratios.astype(np.float64)
        ratios = np.exp(log_ratios)
        figures = {
            "actor/is_ratio/mean": float(ratios.mean()),
            "actor/is_ratio/std": float(ratios.std()),
            "actor/is_ratio/p95": float(np.quantile(ratios, 0.95)),
            "actor/is_log_ratio/mean": float(log_ratios.mean()),
            "actor/is_log_ratio/std": float(log_ratios.std()),
        }
    if clip_range is not None:
        low, high = clip_range
        figures["actor/is_clip/outside_frac"] = float(((ratios < low) | (ratios > high)).mean())
    return figures


@dataclass
class RunningTotals:
    """What a run has used and earned since its first rollout: state plus arithmetic, saved in checkpoints.

    `rollouts` and `completions` count those that were judged; tokens count for all. `ema_beta` weighs the past in the
    smoothed success rate; the average starts at 0 and is divided by 1 - ema_beta ** rollouts, so that the first value
    is the first batch's rate.
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

    def update(self, observation: RolloutObservation, *, success_threshold: float = FULL_REWARD) -> None:
        """Add one gathered generation batch; one without a judged completion adds its tokens alone."""
        self.response_tokens += sum(int(length) for length in observation.lengths)
        rewards = [float(reward) for reward in observation.scores]
        if not rewards:
            return
        successes = sum(is_success(reward, success_threshold) for reward in rewards)
        self.rollouts += 1
        self.completions += len(rewards)
        self.successes += successes
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
