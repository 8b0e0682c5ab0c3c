"""Compare window policies on learners whose distributions are known, against the oracle that knows them.

    python benchmarks/simulate_windows.py --out results/window_simulator

writes `simulation.json` (every figure), `table.md` and `windows.png` into the folder. Tokens and success are expected
values under the true distributions at the windows that a policy chose, so that only its choices are compared, not the
luck of a batch. Nothing is trained: the learner drifts with the rollout number, whatever the policy does.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from window_learners import SCENARIOS, Scenario, Truth

from tinyzero_trl.windows import (
    CosineConfig,
    FixedConfig,
    PhasedConfig,
    SignalConfig,
    SuccessConfig,
    WindowConfig,
    make_policy,
)
from tinyzero_trl.windows.config import DEFAULT_MIN


@dataclass(frozen=True)
class Settings:
    """Size of the simulation; a rollout samples prompts x group_size completions."""

    rollouts: int = 400
    prompts: int = 16
    group_size: int = 8
    seeds: int = 5
    slack: float = 0.02


def policies(scenario: Scenario, settings: Settings) -> dict[str, WindowConfig]:
    """The policies under comparison, each with its defaults."""
    common: dict[str, Any] = {"initial": scenario.initial, "max": scenario.largest}
    adaptive = common | {"slack": settings.slack}
    fork: dict[str, Any] = {"std_multiplier": 0.0, "saturation_frac": 1.0, "growth_needs_pressure": False}
    third = settings.rollouts // 3
    phases = ((0, scenario.largest // 4), (third, scenario.largest // 2), (2 * third, scenario.largest))
    return {
        "fixed": FixedConfig(**common),
        "phased": PhasedConfig(**common, phases=phases),
        "cosine": CosineConfig(**common, total_steps=settings.rollouts),
        "success, fork's rule": SuccessConfig(**adaptive, **fork),
        "success, basic": SuccessConfig(**adaptive, mode="basic"),
        "success, ema": SuccessConfig(**adaptive, mode="ema"),
        "success, rolling": SuccessConfig(**adaptive, mode="rolling"),
        "signal": SignalConfig(**adaptive),
        "signal, slack 0.3": SignalConfig(**common, slack=0.3),
    }


def truths_of(scenario: Scenario, settings: Settings) -> list[Truth]:
    """The true distributions, rollout by rollout."""
    return [scenario.learner(progress).truth(scenario.largest) for progress in _progress(settings)]


def oracle_windows(truths: Iterable[Truth], smallest: int, slack: float) -> list[int]:
    """What `signal` would choose if it knew the truth and could jump."""
    return [truth.best_window(smallest, slack) for truth in truths]


def chosen_windows(scenario: Scenario, config: WindowConfig, settings: Settings, seed: int) -> list[int]:
    """The window of every rollout, when `config`'s policy meets the scenario."""
    generator = np.random.default_rng(seed)
    policy = make_policy(replace(config, seed=seed))
    windows = []
    for step, progress in enumerate(_progress(settings)):
        windows.append(policy.window)
        learner = scenario.learner(progress)
        policy.observe(learner.rollout(step, policy.window, settings.prompts, settings.group_size, generator))
    return windows


def figures(truths: list[Truth], windows: list[int]) -> dict[str, float]:
    """Expected tokens, success and signal of one run; success in fractions, tokens per completion."""
    chosen = list(zip(truths, windows, strict=True))
    last_third = chosen[-(len(chosen) // 3) :]
    tokens = fmean(truth.cost[window] for truth, window in chosen)
    signal = fmean(truth.success[window] - truth.pair_success[window] for truth, window in chosen)
    return {
        "tokens": tokens,
        "success_lost": fmean(truth.success[-1] - truth.success[window] for truth, window in chosen),
        "signal_per_1000_tokens": 1000 * signal / tokens,
        "kept_at_end_frac": fmean(truth.success[window] / truth.success[-1] for truth, window in last_third),
        "idle_at_max_frac": fmean(
            # at the maximum although half of it would keep 98 % of the success
            window == len(truth.success) - 1 and truth.success[window // 2] >= 0.98 * truth.success[-1]
            for truth, window in last_third
        ),
    }


def simulate(scenario: Scenario, settings: Settings, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Every policy (or those named) on one scenario: the mean over seeds, and the worst tokens and losses."""
    truths = truths_of(scenario, settings)
    oracle = oracle_windows(truths, DEFAULT_MIN, settings.slack)
    best, full = figures(truths, oracle), figures(truths, [scenario.largest] * settings.rollouts)
    rows = {}
    for name, config in policies(scenario, settings).items():
        if names is None or name in names:
            runs = [chosen_windows(scenario, config, settings, seed) for seed in range(settings.seeds)]
            rows[name] = _row([figures(truths, windows) for windows in runs], best, full) | {"windows": runs[0]}
    return {
        "scenario": scenario.name,
        "success_at_max": [float(truths[index].success[-1]) for index in (0, len(truths) // 2, -1)],
        "oracle": {"windows": oracle} | _row([best], best, full),
        "policies": rows,
    }


def _row(runs: list[dict[str, float]], best: Mapping[str, float], full: Mapping[str, float]) -> dict[str, Any]:
    mean = {name: fmean(run[name] for run in runs) for name in best}
    return {
        "tokens_over_oracle": mean["tokens"] / best["tokens"],
        "tokens_over_oracle_worst": max(run["tokens"] for run in runs) / best["tokens"],
        "tokens_over_full": mean["tokens"] / full["tokens"],
        "points_lost": 100 * mean["success_lost"],
        "points_lost_worst": 100 * max(run["success_lost"] for run in runs),
        "signal_per_token_over_oracle": mean["signal_per_1000_tokens"] / best["signal_per_1000_tokens"],
        "kept_at_end_frac": mean["kept_at_end_frac"],
        "idle_at_max_frac": mean["idle_at_max_frac"],
    }


def _progress(settings: Settings) -> Iterable[float]:
    return (step / max(settings.rollouts - 1, 1) for step in range(settings.rollouts))


def markdown_table(results: list[dict[str, Any]]) -> str:
    """One row per scenario and policy."""
    lines = [
        "| scenario | policy | tokens / oracle (worst) | tokens / full | points lost (worst) "
        "| signal per token / oracle | success kept at the end | idle at max |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        for name, row in {"oracle": result["oracle"], **result["policies"]}.items():
            lines.append(
                f"| {result['scenario']} | {name} "
                f"| {row['tokens_over_oracle']:.2f} ({row['tokens_over_oracle_worst']:.2f}) "
                f"| {row['tokens_over_full']:.2f} | {row['points_lost']:.1f} ({row['points_lost_worst']:.1f}) "
                f"| {row['signal_per_token_over_oracle']:.2f} | {row['kept_at_end_frac']:.0%} "
                f"| {row['idle_at_max_frac']:.0%} |"
            )
    return "\n".join(lines) + "\n"


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """The windows that each policy chose, one panel per scenario; single rollouts at the maximum as dots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    shown = ("success, fork's rule", "success, rolling", "signal")
    for panel, result in zip(panels, results, strict=True):
        for name, color in zip(shown, ("tab:gray", "tab:orange", "tab:blue"), strict=True):
            windows = np.array(result["policies"][name]["windows"], dtype=float)
            alone = (windows[1:-1] > windows[:-2]) & (windows[1:-1] > windows[2:]) & (windows[1:-1] == windows.max())
            spikes = np.flatnonzero(alone) + 1
            panel.plot(spikes, windows[spikes], ".", color=color, markersize=3)
            steps = np.delete(np.arange(len(windows)), spikes)
            panel.plot(steps, windows[steps], label=name, color=color, linewidth=1.2)
        panel.plot(result["oracle"]["windows"], label="oracle", color="black", linestyle="--", linewidth=1.5)
        panel.set(title=result["scenario"], xlabel="rollout", ylabel="window (tokens)", ylim=(0, None))
    panels[0].legend(loc="upper right", fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for simulation.json, table.md, windows.png")
    for name, default in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"{default}")
    arguments = vars(parser.parse_args())
    out = arguments.pop("out")
    settings = Settings(**arguments)
    results = [simulate(scenario, settings) for scenario in SCENARIOS]
    out.mkdir(parents=True, exist_ok=True)
    record = {"settings": vars(settings), "results": results}
    (out / "simulation.json").write_text(json.dumps(record, default=float) + "\n")
    table = markdown_table(results)
    (out / "table.md").write_text(table)
    draw(results, out / "windows.png")
    print(table, end="")


if __name__ == "__main__":
    main()
