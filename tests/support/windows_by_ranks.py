"""Train on rollouts that depend on their place in the global batch alone; print windows and losses. Run under torchrun.

However many ranks share the batch, the policy must see the same completions and choose the same windows.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tests.support.fixed_rollouts import (
    GROUP_SIZE,
    LONGEST_COMPLETION,
    PROMPTS,
    VOCABULARY,
    tiny_model_path,
    tiny_tokenizer,
)
from tests.support.ranks import tell
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer
from tinyzero_trl.training.controller import WindowController
from tinyzero_trl.windows import WindowConfig, WindowPolicy

GLOBAL_BATCH, STEPS = 16, 12
MODEL = tiny_model_path()  # before there are ranks: afterwards only the first would save it


_COMMON = {"window_initial": 8, "window_min": 4, "window_min_samples": 4}
_DELTAS = {"window_growth_delta": 4, "window_shrink_delta": 4}
MOVING_WINDOWS: dict[str, dict[str, Any]] = {
    "success": {
        **_COMMON,
        **_DELTAS,
        "window_min_change": 2,
        "window_length_tolerance": 2,
        "window_update_frequency": 1,
        "window_epsilon": 0.3,
        "window_slack": 0.2,
    },
    "signal": {
        **_COMMON,
        **_DELTAS,
        "window_headroom": 1.0,
        "window_slack": 0.2,
        "window_memory_rollouts": 6,
        "window_probe_every": 4,
    },
}
"""Settings under which a window of a few tokens moves at almost every rollout."""


class Windows(TrainerCallback):
    """Keeps the window of every rollout."""

    def __init__(self, policy: WindowPolicy) -> None:
        self.policy = policy
        self.seen: list[int] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.seen.append(self.policy.window)


def placed(base: type[GRPOTrainer]) -> type[GRPOTrainer]:
    """A trainer whose completions are drawn by step and global row, cut at the limit that was set on the engine."""

    class PlacedRollouts(base):  # type: ignore[misc, valid-type]
        def _generate_single_turn(self, prompt_ids: list, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
            limit = self.generation_config.max_new_tokens
            first = self.accelerator.process_index * len(prompt_ids)
            return [self._completion(first + row)[:limit] for row in range(len(prompt_ids))], None

        def _completion(self, global_row: int) -> list[int]:
            generator = torch.Generator().manual_seed(1000 * self.state.global_step + global_row)
            length = int(torch.randint(1, LONGEST_COMPLETION, (1,), generator=generator))
            return [*torch.randint(3, VOCABULARY, (length,), generator=generator).tolist(), 1]

    return PlacedRollouts


def finished_in_an_odd_number(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(ids[-1] == 1 and len(ids) % 2 == 1) for ids in completion_ids]


def train(strategy: str, stock: bool) -> dict[str, list[float]]:
    """Windows and losses of our trainer, or of TRL's with a `WindowController`."""
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    window: dict[str, Any] = {"window_strategy": strategy, **MOVING_WINDOWS[strategy]}
    settings: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": GLOBAL_BATCH // ranks,
        "num_generations": GROUP_SIZE,
        "max_completion_length": LONGEST_COMPLETION,
        "max_steps": STEPS,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
    }
    trainer = placed(GRPOTrainer if stock else AdaptiveGRPOTrainer)(
        MODEL,
        finished_in_an_odd_number,
        GRPOConfig(**settings) if stock else AdaptiveGRPOConfig(**settings, **window),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 16}),
        processing_class=tiny_tokenizer(),
    )
    if stock:
        config = WindowConfig(**{name.removeprefix("window_"): value for name, value in window.items()})
        policy = WindowController(config).attach(trainer).policy
    else:
        policy = trainer.window_callback.policy
    trainer.add_callback(windows := Windows(policy))
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {"windows": windows.seen, "losses": losses}


def train_all(strategies: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """What `train` gives for each strategy; with `stock:` before it, of TRL's trainer."""
    return {strategy: train(strategy.removeprefix("stock:"), "stock:" in strategy) for strategy in strategies}


if __name__ == "__main__":
    tell(train_all(sys.argv[1:]))
