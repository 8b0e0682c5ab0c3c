"""The figures of one evaluation during training: every held-out problem answered once."""

from collections.abc import Sequence

import numpy as np

from tinyzero_trl.metrics.intervals import wilson_interval


def evaluation_metrics(
    *,
    rewards: Sequence[float],
    lengths: Sequence[int],
    truncated: Sequence[bool],
    difficulties: Sequence[int],
    success_threshold: float = 1.0,
) -> dict[str, float]:
    """The `eval/` figures of N completions, one per held-out problem.

    Args:
        rewards: verdicts, (N,); a completion is correct from `success_threshold` on.
        lengths: completion tokens, (N,).
        truncated: whether the full length cut the completion, (N,).
        difficulties: operand count of each problem, (N,); 0 where it is unknown.
        success_threshold: reward of a success.

    Returns:
        Accuracy with its 95 % Wilson interval, mean reward, mean length and truncation; nothing for N = 0.
    """
    count = len(rewards)
    if count == 0:
        return {}
    correct = np.asarray(rewards) >= success_threshold
    low, high = wilson_interval(int(correct.sum()), count)
    figures = {
        "eval/acc": float(correct.mean()),
        "eval/acc_low": low,
        "eval/acc_high": high,
        "eval/reward": float(np.mean(rewards)),
        "eval/mean_length": float(np.mean(lengths)),
        "eval/truncated_frac": float(np.mean(truncated)),
        "eval/n": float(count),
    }
    known = np.asarray(difficulties)
    for operands in np.unique(known[known > 0]).tolist():
        figures[f"eval/{operands}_acc"] = float(correct[known == operands].mean())
    return figures
