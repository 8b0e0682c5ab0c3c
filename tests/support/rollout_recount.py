"""The figures of a rollout, written out from its raw completions."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One completion as it was sampled."""

    length: int
    reward: float
    cut: bool
    group: int
    prompt_length: int
    operands: int

    @property
    def correct(self) -> bool:
        return self.reward >= 1.0


def mean(values: Any) -> float | None:
    values = list(values)
    return math.fsum(values) / len(values) if values else None


def recount(rows: list[Row]) -> dict[str, float | None]:
    """The figures that need one rollout alone; None where there is nothing to count."""
    wins = [row.length for row in rows if row.correct]
    groups = [[row for row in rows if row.group == group] for group in {row.group for row in rows}]
    found: dict[str, float | None] = {
        "adaptive_window/mean_success_length": mean(wins),
        "adaptive_window/median_success_length": statistics.median(wins) if wins else None,
        "adaptive_window/std_success_length": statistics.pstdev(wins) if wins else None,
        "adaptive_window/p95_success_length": quantile(wins, 0.95) if wins else None,
        "adaptive_window/num_success_samples": len(wins),
        "adaptive_window/success_rate": len(wins) / len(rows),
        "tokens/prompt_total": sum(row.prompt_length for row in rows),
        "tokens/response_total": sum(row.length for row in rows),
        "tokens/overall_total": sum(row.length + row.prompt_length for row in rows),
        "completion/truncated_frac": mean(row.cut for row in rows),
        "completion/finished_frac": mean(not row.cut for row in rows),
        "completion/truncated_correct_frac": mean(row.correct for row in rows if row.cut),
        "completion/finished_correct_frac": mean(row.correct for row in rows if not row.cut),
        "completion/correct_mean_length": mean(wins),
        "group/zero_variance_frac": mean(len({row.reward for row in group}) == 1 for group in groups),
        "group/all_correct_frac": mean(all(row.correct for row in group) for group in groups),
        "group/all_wrong_frac": mean(not any(row.correct for row in group) for group in groups),
    }
    for operands in {row.operands for row in rows}:
        of_size = [row for row in rows if row.operands == operands]
        found[f"difficulty/{operands}_acc"] = mean(row.correct for row in of_size)
        found[f"difficulty/{operands}_count"] = len(of_size)
        found[f"difficulty/{operands}_mean_length"] = mean(row.length for row in of_size)
    return found


def quantile(values: Sequence[float], q: float) -> float:
    """The linear quantile."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
