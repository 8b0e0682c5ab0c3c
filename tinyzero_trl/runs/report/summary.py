"""The machine-readable results of a report: `summary.json` and `summary.csv`."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from tinyzero_trl.metrics import Interval
from tinyzero_trl.runs.report.compare import Outcome
from tinyzero_trl.runs.report.run_groups import LoadedRuns

_INTERVALS = (
    *("final_acc", "acc_difference", "tokens_ratio", "time_ratio"),
    *("tokens_to_target_ratio", "time_to_target_ratio"),
)


def summary(loaded: LoadedRuns, outcomes: Sequence[Outcome], baseline: str) -> dict[str, Any]:
    """The content of `summary.json`; what cannot be compared is null, and `not_compared` says why."""
    return {
        "baseline": baseline,
        "policies": {
            outcome.name: {
                "seeds": outcome.seeds,
                **{name: _object(getattr(outcome, name)) for name in _INTERVALS},
                "paired_seeds": outcome.paired_seeds,
                "reached_target": outcome.reached_target,
                **({"not_compared": list(outcome.not_compared)} if outcome.not_compared else {}),
            }
            for outcome in outcomes
        },
        **({} if loaded.finished else {"finished": False}),
        **({"unfinished_runs": [str(run.path) for _, run in loaded.left_out]} if loaded.left_out else {}),
        **({"missing_steps": missing} if (missing := loaded.missing_steps) else {}),
    }


def _object(interval: Interval | None) -> dict[str, float | None] | None:
    return None if interval is None else interval._asdict()


def summary_csv(outcomes: Sequence[Outcome]) -> str:
    """One row per run group; an interval takes three columns, and an empty cell stands for nothing."""
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        row: dict[str, Any] = {"policy": outcome.name, "seeds": outcome.seeds}
        for name in _INTERVALS:
            interval = getattr(outcome, name) or (None, None, None)
            row |= zip((f"{name}_{part}" for part in Interval._fields), interval, strict=True)
        for name in (
            *("tokens_to_target", "time_to_target_s", "paired_seeds", "reached_target"),
            *("tokens", "elapsed_s"),
        ):
            row[name] = getattr(outcome, name)
        row["not_compared"] = "; ".join(outcome.not_compared)
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
