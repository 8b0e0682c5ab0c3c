"""Compare the decision per group with an oracle and with every fixed window, on learners that are known.

    python benchmarks/simulate_groups.py --out results/group_simulator

writes `simulation.json` and `table.md` into the folder. All rules meet the same completions. The oracle knows the
learner, and of a prompt what the policy may know. "At the same success" is the shortest fixed window, chosen afterwards
over the whole run, under which as many completions succeed as under the policy.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from group_learners import GROUP, MAXIMUM, SCENARIOS, Rollout, Scenario, rollout
from group_oracle import OracleRule, fit_oracle
from numpy.typing import NDArray

from tinyzero_trl.windows import RolloutObservation, WindowConfig, make_policy
from tinyzero_trl.windows.policy import GroupState, WindowPolicy

_ORACLE_GROUPS = 6000
_ORACLE_EVERY = 20  # rollouts


@dataclass(frozen=True)
class Settings:
    """Size of the simulation; a rollout samples `prompts` groups of 8."""

    rollouts: int = 200
    prompts: int = 16
    pool: int = 640  # prompts of a scenario in which they come again
    seeds: int = 3
    slack: float = 0.02
    gain: str = "sequences"
    first_stage: int = 32
    stage_growth: float = 1.5
    explore_share: float = 0.05
    scenario: str = ""  # only that one; all if empty


def config_of(scenario: Scenario, settings: Settings, seed: int) -> WindowConfig:
    """The policy with its defaults."""
    return WindowConfig(
        strategy="group",
        max=MAXIMUM,
        slack=settings.slack,
        seed=seed,
        group_gain=settings.gain,
        scale_rewards="group",
        first_stage=settings.first_stage,
        stage_growth=settings.stage_growth,
        explore_share=settings.explore_share,
    )


def simulate(scenario: Scenario, settings: Settings, seed: int) -> dict[str, float]:
    """One run of the policy; the oracle and the fixed windows on the same completions."""
    generator = np.random.default_rng([seed, len(scenario.name)])
    recurring = scenario.recurring
    pool = scenario.pool(settings.pool if recurring else settings.rollouts * settings.prompts, generator)
    policy = make_policy(config_of(scenario, settings, seed))
    visits = _visits(len(pool.kind), settings, generator)
    sums = {name: np.zeros(2) for name in ("policy", "oracle")}
    fixed = np.zeros((MAXIMUM + 1, 2))
    past = np.zeros(len(pool.kind), dtype=np.int64)
    oracle: OracleRule | None = None
    size = len(scenario.types(0.0)) if scenario.has_labels else 5 if recurring else 1
    for step, prompts in enumerate(visits):
        types = scenario.types(step / max(settings.rollouts - 1, 1))
        if step % _ORACLE_EVERY == 0:
            oracle = _oracle(scenario, policy.stages, size, settings, step, seed)
        assert oracle is not None
        groups = rollout(types, pool, prompts, generator)
        knowledge = groups.kind if scenario.has_labels else past[prompts] if recurring else np.zeros_like(prompts)
        labels = [str(kind) for kind in groups.kind] if scenario.has_labels else None
        sums["oracle"] += _spent(groups, oracle.limits(groups, knowledge))
        limits = follow(policy, groups, step, labels, recurring)
        sums["policy"] += _spent(groups, limits)
        fixed += _spent_by_window(groups)
        past[prompts] = _outcome(groups)
    return _figures(sums, fixed, settings)


def _figures(sums: dict[str, Any], fixed: NDArray[np.float64], settings: Settings) -> dict[str, float]:
    completions = settings.rollouts * settings.prompts * GROUP
    full_tokens, full_won = fixed[-1]
    tokens, won = sums["policy"]
    best = fixed[int(np.argmax(fixed[:, 1] >= won)), 0]
    return {
        "tokens_over_oracle": tokens / sums["oracle"][0],
        "tokens_over_full": tokens / full_tokens,
        "oracle_over_full": sums["oracle"][0] / full_tokens,
        "tokens_over_fixed": tokens / best,
        "points_lost": 100 * (full_won - won) / completions,
        "oracle_points_lost": 100 * (full_won - sums["oracle"][1]) / completions,
    }


def _visits(pool: int, settings: Settings, generator: np.random.Generator) -> NDArray[np.int64]:
    """Places in the pool, (rollouts, prompts): epochs, each in an order of its own."""
    needed = settings.rollouts * settings.prompts
    epochs = [generator.permutation(pool) for _ in range(-(-needed // pool))]
    return np.concatenate(epochs)[:needed].reshape(settings.rollouts, settings.prompts)


def _oracle(
    scenario: Scenario, ends: tuple[int, ...], size: int, settings: Settings, step: int, seed: int
) -> OracleRule:
    """The best rule for the middle of the next rollouts."""
    generator = np.random.default_rng([seed, step, 1])
    pool = scenario.pool(_ORACLE_GROUPS, generator)
    everyone = np.arange(_ORACLE_GROUPS)
    at = [
        min(1.0, max(0.0, (step + shift) / settings.rollouts))
        for shift in (_ORACLE_EVERY / 2, -settings.pool / settings.prompts)
    ]
    groups = rollout(scenario.types(at[0]), pool, everyone, generator)
    knowledge = np.zeros(_ORACLE_GROUPS, dtype=np.int64)
    if scenario.has_labels:
        knowledge = groups.kind
    elif scenario.recurring and step * settings.prompts >= settings.pool:
        knowledge = _outcome(rollout(scenario.types(at[1]), pool, everyone, generator))
    return fit_oracle(groups, knowledge, size, ends, settings.slack, by_tokens=settings.gain == "tokens")


def _outcome(groups: Rollout) -> NDArray[np.int64]:
    """What a visit showed: 1 without a success, else 2 to 4 by the median length of the successes; 0 is unknown."""
    right = groups.right & (groups.length <= MAXIMUM)
    lengths = np.where(right, groups.length, 0).astype(float)
    lengths[~right] = np.nan
    median = np.zeros(len(right))
    some = right.any(1)
    median[some] = np.nanmedian(lengths[some], axis=1)
    return np.asarray(1 + np.digitize(median, [1, 128, 384]))


def follow(
    policy: WindowPolicy, groups: Rollout, step: int, labels: list[str] | None, recurring: bool
) -> NDArray[np.int64]:
    """Let the policy decide on a rollout and see what came of it; (N,) where each group is cut."""
    ends = policy.stages
    limit = np.full(len(groups.prompt), ends[0])
    live = np.ones(len(groups.prompt), dtype=bool)
    keys = [f"prompt {prompt}" for prompt in groups.prompt] if recurring else None
    for stage, end in enumerate(ends[:-1]):
        ended = groups.length <= end
        won, lost = (groups.right & ended).sum(1), (~groups.right & ended).sum(1)
        live &= won + lost < GROUP
        states = [
            GroupState(
                group=int(place),
                stage_end=end,
                successes=int(won[place]),
                failures=int(lost[place]),
                unfinished=int(GROUP - won[place] - lost[place]),
                label=labels[place] if labels else "",
                prompt_key=keys[place] if keys else "",
            )
            for place in np.flatnonzero(live)
        ]
        live[live] = policy.go_on(states)
        limit[live] = ends[stage + 1]
    cut = groups.length > limit[:, None]
    right = groups.right & ~cut
    rows = np.repeat(np.arange(len(limit)), GROUP)
    policy.observe(
        RolloutObservation(
            step=step,
            window=MAXIMUM,
            lengths=np.minimum(groups.length, limit[:, None]).ravel().tolist(),
            rewards=right.astype(float).ravel().tolist(),
            truncated=cut.ravel().tolist(),
            groups=rows.tolist(),
            labels=[labels[row] for row in rows] if labels else (),
            prompt_keys=[keys[row] for row in rows] if keys else (),
        )
    )
    return limit


def _spent(groups: Rollout, limits: NDArray[np.int64]) -> NDArray[np.float64]:
    """Tokens and successes under a limit for each group."""
    limit = limits[:, None]
    return np.array([np.minimum(groups.length, limit).sum(), (groups.right & (groups.length <= limit)).sum()])


def _spent_by_window(groups: Rollout) -> NDArray[np.float64]:
    """Tokens and successes under every fixed window 0 .. MAXIMUM, (MAXIMUM + 1, 2)."""
    lengths = np.minimum(groups.length, MAXIMUM + 1).ravel()
    ends = np.bincount(lengths, minlength=MAXIMUM + 2)[: MAXIMUM + 1]
    alive = groups.length.size - np.cumsum(ends)  # beyond each length
    tokens = np.concatenate(([0], np.cumsum(alive[:-1])))
    won = np.cumsum(np.bincount(lengths[groups.right.ravel()], minlength=MAXIMUM + 2)[: MAXIMUM + 1])
    return np.stack([tokens, won], axis=1).astype(float)


def run(settings: Settings, scenarios: tuple[Scenario, ...] = SCENARIOS) -> list[dict[str, Any]]:
    """Every scenario, or the one that is asked for: means over seeds, and the worst seed of what has a target."""
    results = []
    wanted = [scenario for scenario in scenarios if settings.scenario in ("", scenario.name)]
    if not wanted:
        known = ", ".join(repr(scenario.name) for scenario in scenarios)
        raise ValueError(f"scenario: {settings.scenario!r} is unknown; use one of {known}")
    for scenario in wanted:
        runs = [simulate(scenario, settings, seed) for seed in range(settings.seeds)]
        mean = {name: fmean(each[name] for each in runs) for name in runs[0]}
        worst = {
            f"{name}_worst": max(each[name] for each in runs)
            for name in ("tokens_over_oracle", "tokens_over_fixed", "points_lost")
        }
        results.append({"scenario": scenario.name, **mean, **worst})
        print(_row(results[-1]), flush=True)
    return results


def _row(figures: dict[str, Any]) -> str:
    return (
        f"| {figures['scenario']} | {figures['oracle_over_full']:.2f} | {figures['tokens_over_full']:.2f} "
        f"| {figures['tokens_over_oracle']:.2f} ({figures['tokens_over_oracle_worst']:.2f}) "
        f"| {figures['points_lost']:.1f} ({figures['points_lost_worst']:.1f}) | {figures['oracle_points_lost']:.1f} "
        f"| {figures['tokens_over_fixed']:.2f} ({figures['tokens_over_fixed_worst']:.2f}) |"
    )


COLUMNS = (
    "scenario",
    "oracle's tokens / full",
    "tokens / full",
    "tokens / oracle (worst)",
    "points lost (worst)",
    "points lost by the oracle",
    "tokens / best fixed window at the same success (worst)",
)
HEADER = f"| {' | '.join(COLUMNS)} |\n| --- {'| ---: ' * (len(COLUMNS) - 1)}|\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for simulation.json and table.md")
    for name, default in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"{default}")
    arguments = vars(parser.parse_args())
    out = arguments.pop("out")
    settings = Settings(**arguments)
    print(HEADER, end="", flush=True)
    results = run(settings)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "simulation.json").write_text(json.dumps({"settings": vars(settings), "results": results}) + "\n")
        (out / "table.md").write_text(HEADER + "\n".join(map(_row, results)) + "\n")


if __name__ == "__main__":
    main()
