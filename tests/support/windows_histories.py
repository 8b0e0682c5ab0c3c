"""Histories of rollouts: what a model would have written, and what a window lets by."""

import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tinyzero_trl.windows import MODES, RolloutObservation, WindowConfig, WindowPolicy, fields_read, make_policy


class Wanted(NamedTuple):
    """A completion as the model would end it: `length` None rambles on for ever."""

    length: int | None
    right: bool
    group: int = 0


def observed(step: int, window: int, batch: Sequence[Wanted]) -> RolloutObservation:
    """The batch under a window; an end token exactly at the limit is finished."""
    cut = [wanted.length is None or wanted.length > window for wanted in batch]
    return RolloutObservation(
        step=step,
        window=window,
        lengths=[window if is_cut else wanted.length or 0 for wanted, is_cut in zip(batch, cut, strict=True)],
        rewards=[float(wanted.right and not is_cut) for wanted, is_cut in zip(batch, cut, strict=True)],
        truncated=cut,
        groups=[wanted.group for wanted in batch],
    )


def random_history(rollouts: int, completions: int, seed: int) -> list[list[Wanted]]:
    """Batches in groups of four; one completion in ten rambles."""
    generator = random.Random(seed)
    return [
        [
            Wanted(
                generator.randint(1, 300) if generator.random() < 0.9 else None,
                generator.random() < 0.6,
                index // 4,
            )
            for index in range(completions)
        ]
        for _ in range(rollouts)
    ]


wanted = st.builds(Wanted, st.none() | st.integers(1, 300), st.booleans(), st.integers(0, 3))
batches = st.lists(wanted, max_size=8)
histories = st.lists(batches, min_size=1, max_size=25)


def config_of(strategy: Any, **values: Any) -> WindowConfig:
    """The configuration of a strategy, from the values that it reads."""
    return WindowConfig(strategy=strategy, **{name: values[name] for name in values.keys() & fields_read(strategy)})


values = st.fixed_dictionaries(
    dict(
        strategy=st.sampled_from(("fixed", "phased", "cosine", "success", "signal", "success", "signal", "group")),
        mode=st.sampled_from(MODES),
        min=st.integers(1, 40),
        initial=st.integers(40, 160),
        max=st.integers(160, 400),
        seed=st.integers(0, 3),
        phases=st.just(((2, 64), (5, 128), (9, 40))),
        total_steps=st.integers(1, 30),
        min_samples=st.integers(1, 8),
        growth_delta=st.integers(16, 80),
        shrink_delta=st.integers(16, 80),
        warmup_steps=st.integers(0, 4),
        std_multiplier=st.sampled_from((0.0, 2.0)),
        update_frequency=st.integers(1, 3),
        min_change=st.integers(0, 16),
        length_tolerance=st.integers(0, 32),
        hold_steps_before_growth=st.integers(1, 5),
        saturation_frac=st.sampled_from((0.0, 0.5, 1.0)),
        growth_needs_pressure=st.booleans(),
        rolling_window=st.integers(8, 30),
        epsilon=st.sampled_from((0.0, 0.5, 1.0)),
        ema_bias_correction=st.booleans(),
        slack=st.sampled_from((0.0, 0.02, 0.3)),
        headroom=st.sampled_from((1.0, 1.25, 3.0)),
        memory_rollouts=st.integers(4, 8),
        probe_every=st.integers(1, 4),
    )
)
configs = values.map(lambda given: config_of(**given))


def through_json(policy: WindowPolicy[Any]) -> WindowPolicy[Any]:
    """A policy that goes on from what a checkpoint holds of another; Trainer sorts the names in it."""
    resumed = make_policy(policy.config)
    resumed.load_state_dict(json.loads(json.dumps(policy.state_dict(), allow_nan=False, sort_keys=True)))
    return resumed
