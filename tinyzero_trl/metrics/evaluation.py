"""The figures of one evaluation during training: held-out problems, answered at the full length."""

from collections.abc import Hashable, Sequence

import numpy as np

from tinyzero_trl.metrics.accuracy import accuracy
from tinyzero_trl.metrics.labels import Label, labels_of
from tinyzero_trl.windows.outcomes import FULL_REWARD, is_judged, outcomes


def evaluation_metrics(
    *,
    rewards: Sequence[float | None],
    lengths: Sequence[int],
    truncated: Sequence[bool],
    difficulties: Sequence[Label],
    problems: Sequence[Hashable] | None = None,
    success_threshold: float = FULL_REWARD,
) -> dict[str, float]:
    """The `eval/` figures of N completions.

    Args:
        rewards: scores, (N,); None where a completion was not judged, which leaves it out of accuracy and reward.
        lengths: completion tokens, (N,).
        truncated: whether the full length cut the completion, (N,).
        difficulties: label of each problem, such as its operand count, (N,); 0 or empty where it has none.
        problems: which problem each completion answers, (N,); without it every one answers another problem.
        success_threshold: a completion is correct when its reward is at least this.

    Returns:
        Accuracy with its 95 % interval (see `accuracy_interval`), mean reward, mean length and truncation; nothing
        for N = 0, no accuracy and no reward where no completion was judged.
    """
    if len(rewards) == 0:
        return {}
    answered = list(range(len(rewards))) if problems is None else list(problems)
    correct = outcomes(rewards, success_threshold)
    figures: dict[str, float] = {}
    if overall := accuracy(correct, answered):
        figures["eval/acc"], figures["eval/acc_low"], figures["eval/acc_high"] = overall[:3]
        figures["eval/reward"] = float(np.mean([reward for reward in rewards if is_judged(reward)]))
    figures["eval/mean_length"] = float(np.mean(lengths))
    figures["eval/truncated_frac"] = float(np.mean(truncated))
    if overall:
        figures |= {"eval/n": float(overall.answers), "eval/problems": float(overall.problems)}
    for label in labels_of(difficulties):
        chosen = [row for row, level in enumerate(difficulties) if level == label]
        if of_label := accuracy([correct[row] for row in chosen], [answered[row] for row in chosen]):
            figures[f"eval/{label}_acc"] = of_label.mean
    return figures
