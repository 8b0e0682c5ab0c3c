"""Every formula of docs/metrics.md, recomputed from the raw completions of a run, under every window policy."""

import math
import random
import statistics
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from transformers import TrainerControl, TrainerState

from tests.support.rollout_recount import Row, mean, recount
from tinyzero_trl.metrics import METRICS, describe
from tinyzero_trl.runs.records import read_run
from tinyzero_trl.training.callbacks.events import Rollout
from tinyzero_trl.training.callbacks.records import RecordsCallback
from tinyzero_trl.training.callbacks.window import AdaptiveWindowCallback
from tinyzero_trl.windows import RolloutObservation, WindowConfig

LARGEST, STEPS, GROUPS, SIZE = 100, 40, 6, 4
POLICIES: dict[str, dict[str, Any]] = {
    "fixed": {},
    "phased": {"phases": ((0, 30), (10, 60), (30, LARGEST))},
    "cosine": {"total_steps": STEPS},
    "success": {
        **{"update_frequency": 2, "min_change": 1, "min_samples": 2, "epsilon": 0.3, "success_rate_ema_beta": 0.7},
        **{"target_success_rate": 0.1, "shrink_delta": 4, "std_multiplier": 1.0},
        **{"length_tolerance": 4, "saturation_frac": 1.0, "growth_delta": 4},
    },
    "signal": {"min_samples": 2, "memory_rollouts": 6, "probe_every": 4, "slack": 0.1},
}


class Step(NamedTuple):
    """What a step logged, the window that was asked for, whether it looked beyond, and the raw completions."""

    line: dict[str, Any]
    window: int
    next_window: int
    rows: list[Row]


@pytest.fixture(scope="module", params=POLICIES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Step]]:
    strategy = request.param
    folder = tmp_path_factory.mktemp(strategy)
    config = WindowConfig(strategy=strategy, initial=40, min=10, max=LARGEST, **POLICIES[strategy])
    window = AdaptiveWindowCallback(config)
    records = RecordsCallback(window, success_threshold=config.success_threshold)
    args: Any = SimpleNamespace(output_dir=str(folder), eval_strategy="no", log_completions=False)
    state, control = TrainerState(is_world_process_zero=True), TrainerControl()
    records.on_train_begin(args, state, control)
    generator, windows, rollouts = random.Random(0), [], []
    for step in range(STEPS):
        asked = window.window
        rows = [
            _sampled(generator, asked, group, progress=step / STEPS) for group in range(GROUPS) for _ in range(SIZE)
        ]
        columns = list(zip(*rows, strict=True))
        observation = RolloutObservation(step, asked, *columns[:4])
        rollout = Rollout(observation, columns[4], columns[5], duration_s=0.5)
        records.on_step_begin(args, state, control)
        window.on_rollout_end(args, state, control, rollout)
        records.on_rollout_end(args, state, control, rollout)
        state.global_step += 1
        records.on_step_end(args, state, control)
        windows.append(asked)
        rollouts.append(rows)
    records_run = folder / "config.yaml"
    records_run.write_text("seed: 0\n")
    lines = read_run(folder).metrics
    windows.append(window.window)
    return strategy, [
        Step(line, asked, following, rows)
        for line, (asked, following), rows in zip(lines, pairwise(windows), rollouts, strict=True)
    ]


def _sampled(generator: random.Random, window: int, group: int, progress: float) -> Row:
    """Easy groups come first; answers become right and short as training goes on."""
    wanted = generator.randint(5, 120)
    right = generator.random() < (0.2 + 0.6 * progress) * (GROUPS - group) / GROUPS and wanted <= window
    reward = 1.0 if right else generator.choice([0.0, 0.1])
    return Row(min(wanted, window), reward, wanted > window, group, 5 + group, 3 + group % 2)


def since_the_start(steps: list[Step]) -> dict[str, float | None]:
    """The figures that need every rollout up to the last of `steps`."""
    rates = [mean(row.correct for row in step.rows) or 0.0 for step in steps]
    average = 0.0
    for rate in rates:
        average = 0.9 * average + 0.1 * rate
    rows = [row for step in steps for row in step.rows]
    return {
        "adaptive_window/success_rate_ema": average / (1 - 0.9 ** len(rates)),
        "adaptive_window/cumulative_success_rate": mean(row.correct for row in rows),
        "adaptive_window/cumulative_reward": math.fsum(row.reward for row in rows),
        "train/cumulative_reward": math.fsum(mean(row.reward for row in step.rows) or 0.0 for step in steps),
        "tokens/response_cumulative": sum(row.length for row in rows),
        "adaptive_window/current_window": steps[-1].window,
        "adaptive_window/next_window": steps[-1].next_window,
    }


def of_success(steps: list[Step]) -> dict[str, float | None]:
    """What `success` alone logs."""
    explored = [step.line["adaptive_window/explored_step"] for step in steps]
    rate: float | None = None
    for step, beyond in zip(steps, explored, strict=True):
        if not beyond:
            here = mean(row.correct for row in step.rows) or 0.0
            rate = here if rate is None else 0.7 * rate + 0.3 * here
    wins = [row.length for step in steps for row in step.rows if row.correct]
    target = statistics.fmean(wins) + 1.0 * statistics.pstdev(wins) if wins else None
    return {
        "adaptive_window/policy_success_rate": rate,
        "adaptive_window/exploration_rate": mean(explored),
        "adaptive_window/epsilon": 0.3,
        TARGET_LENGTH: target,
    }


TARGET_LENGTH = next(name for name in METRICS if name in ("adaptive_window/target_length", "adaptive_window/demand"))


class Survival:
    """Product-limit estimates written out: for each length in turn, who ends there and who has got that far."""

    def __init__(self, rollouts: list[list[Row]]) -> None:
        self.rows = [row for rows in rollouts for row in rows]
        self.pairs = [
            pair
            for rows in rollouts
            for group in range(GROUPS)
            for pair in combinations([row for row in rows if row.group == group], 2)
        ]
        self.lengths = sorted({row.length for row in self.rows})

    def success(self, window: int) -> float:
        """Decided right up to `window`; an undecided cut leaves at its length."""
        events = [(row.length, row.correct, not row.cut or row.correct) for row in self.rows]
        return _product_limit(events, self.lengths, window)

    def unfinished(self, window: int) -> float:
        events = [(row.length, not row.cut, not row.cut) for row in self.rows]
        return 1 - _product_limit(events, self.lengths, window)

    def both(self, window: int) -> float:
        """Pairs of a group: won when both are right, lost when either is wrong."""
        return _product_limit([_pair(*pair) for pair in self.pairs], self.lengths, window)

    def signal(self, window: int) -> float:
        return max(self.success(window) - self.both(window), 0.0)

    def cost(self, window: int) -> float:
        """E[min(length, window)], the area under the share that is unfinished."""
        return math.fsum(self.unfinished(length) for length in range(window))


def _pair(one: Row, other: Row) -> tuple[int, bool, bool]:
    """Length, won or not, decided or not, of a pair; the first end that is not a success decides it."""
    misses = sorted((row.length, row.cut) for row in (one, other) if not row.correct)
    if not misses:
        return max(one.length, other.length), True, True
    length, cut = misses[0]
    return length, False, not cut


def _product_limit(events: list[tuple[int, bool, bool]], lengths: list[int], window: int) -> float:
    """The share of (length, won, decided) that is won within `window`; the undecided are followed to their length."""
    won, open_share = 0.0, 1.0
    for length in lengths:
        at_risk = sum(end >= length for end, _, _ in events)
        if length > window or not at_risk:
            break
        here = [(is_won, decided) for end, is_won, decided in events if end == length and decided]
        won += open_share * sum(is_won for is_won, _ in here) / at_risk
        open_share *= 1 - len(here) / at_risk
    return won


def of_signal(steps: list[Step], base_window: int) -> dict[str, float | None]:
    """What `signal` alone logs, at its base window."""
    found = Survival([step.rows for step in steps[-6:]])
    full = found.success(LARGEST)
    windows = sorted({*(length for length in found.lengths if length >= 10), 10, base_window, LARGEST})
    allowed = [window for window in windows if found.success(window) >= (1 - 0.1) * full - 1e-12]
    best = max(allowed, key=lambda window: (found.signal(window) / max(found.cost(window), 1.0), -window))
    return {
        "adaptive_window/exploration_rate": mean(step.line["adaptive_window/explored_step"] for step in steps),
        "adaptive_window/estimated_success": found.success(base_window),
        "adaptive_window/estimated_success_at_max": full,
        "adaptive_window/estimated_unfinished_frac": found.unfinished(base_window),
        "adaptive_window/estimated_signal": found.signal(base_window),
        "adaptive_window/best_window": best,
    }


SIGNAL = (
    *("exploration_rate", "best_window", "estimated_success", "estimated_success_at_max"),
    *("estimated_unfinished_frac", "estimated_signal"),
)


def test_every_logged_figure_follows_its_formula(run: tuple[str, list[Step]]) -> None:
    strategy, steps = run
    for last in range(1, len(steps) + 1):
        so_far = steps[:last]
        line = so_far[-1].line
        expected = recount(so_far[-1].rows) | since_the_start(so_far) | {"time/rollout_s": 0.5}
        if strategy == "success":
            expected |= of_success(so_far)
        for name, value in expected.items():
            assert line.get(name) == (None if value is None else pytest.approx(value)), (name, last)
        left = {name for name in line if describe(name)} - expected.keys()
        own = {"time/optimize_s", "time/elapsed_s", "adaptive_window/explored_step"}
        own |= {f"adaptive_window/{name}" for name in SIGNAL} if strategy == "signal" else set()
        assert left <= own, "a figure without a recomputation"


@pytest.mark.parametrize("run", ["signal"], indirect=True)
def test_estimates_follow_their_formulas(run: tuple[str, list[Step]]) -> None:
    _, steps = run
    for last in range(3, len(steps) + 1, 4):
        line = steps[last - 1].line
        following = [step.line.get("adaptive_window/explored_step") for step in steps[last : last + 1]]
        if following == [1.0]:
            continue  # the next window is a probe and does not tell the base window
        expected = of_signal(steps[:last], base_window=steps[last - 1].next_window)
        for name, value in expected.items():
            assert line[name] == pytest.approx(value), (name, last)


def test_looking_beyond_the_window_is_told(run: tuple[str, list[Step]]) -> None:
    strategy, steps = run
    explored = [step.line.get("adaptive_window/explored_step") for step in steps]
    if strategy in ("success", "signal"):
        assert 0 < sum(explored) < STEPS
        assert all(step.window == LARGEST for step, beyond in zip(steps, explored, strict=True) if beyond)
    else:
        assert explored == [None] * STEPS
