"""The "healthy" values of docs/metrics.md are those of published runs: the demo, each seed of `full` and `signal`."""

from pathlib import Path
from statistics import fmean

import pytest

from tinyzero_trl.runs.records import Run, read_run

RESULTS = Path(__file__).parents[2] / "results"
PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
RUNS = [
    RESULTS / "demo",
    *sorted((RESULTS / "ablation_tiny").glob("full/*")),
    *sorted((RESULTS / "ablation_tiny").glob("signal/*")),
]


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return [read_run(path) for path in RUNS]


def course(run: Run, name: str) -> tuple[float, float]:
    """The mean of a figure over the first fifth of a run, and over the last."""
    values = [line[name] for line in run.metrics if name in line]
    fifth = max(1, len(values) // 5)
    return fmean(values[:fifth]), fmean(values[-fifth:])


def test_there_are_runs_to_look_at(runs: list[Run]) -> None:
    assert len(runs) == 41 and all(run.summary for run in runs)


def test_the_window_and_its_successes(runs: list[Run]) -> None:
    for run in runs:
        first, last = course(run, "adaptive_window/success_rate_ema")
        assert last > first, "success_rate_ema climbs"
        assert min(line["adaptive_window/num_success_samples"] for line in run.metrics) > 0
    for run in (run for run in runs if run.config["window_strategy"] == "signal"):
        window, longest = (
            course(run, f"adaptive_window/{name}")[1] for name in ("current_window", "p95_success_length")
        )
        assert 1 < window / longest < 3, "the window ends at one to three times p95_success_length"
    assert "one to three times `p95_success_length`" in PAGE


def test_completions(runs: list[Run]) -> None:
    for run in runs:
        first, last = course(run, "completion/finished_correct_frac")
        assert last > first, "finished_correct_frac climbs"
        assert course(run, "completion/truncated_correct_frac")[1] < 0.01
        assert min(line["completion/truncated_frac"] for line in run.metrics) > 0.05
        assert max(line["completion/truncated_frac"] for line in run.metrics) < 0.8
    assert "between 0.05 and 0.8" in PAGE


def test_groups_and_computation(runs: list[Run]) -> None:
    for run in runs:
        for name, low, high in (("group/zero_variance_frac", 0.1, 0.95), ("compute/padding_frac", 0.1, 0.8)):
            values = [line[name] for line in run.metrics]
            assert low < min(values) and max(values) < high, name
        skipped = [line["compute/rows_skipped_frac"] for line in run.metrics]
        assert skipped == pytest.approx([line["group/zero_variance_frac"] for line in run.metrics])
        first, last = course(run, "difficulty/3_acc")
        assert last > first, "small problems first"
    assert "between 0.1 and 0.95" in PAGE and "between 0.1 and 0.8" in PAGE


def test_ratios_and_faults(runs: list[Run]) -> None:
    for run in runs:
        for line in run.metrics:
            assert line.get("actor/is_ratio/mean", 1.0) == pytest.approx(1.0, abs=1e-5)
            assert line.get("actor/is_clip/outside_frac", 0.0) == 0.0
            assert line.get("faults/skipped_steps", 0.0) == 0.0


def test_held_out_problems(runs: list[Run]) -> None:
    for run in runs:
        first, last = run.evals[0], run.evals[-1]
        assert last["eval/acc"] > first["eval/acc_high"], "acc ends above the interval that it starts with"
        assert -0.1 < last["eval/truncated_frac"] - first["eval/truncated_frac"] < 0.2
    assert "above the interval that it starts with" in PAGE
    assert "stays within 0.1, or rises by up to 0.2" in " ".join(PAGE.split())
