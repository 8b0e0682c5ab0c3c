"""Train with a decision per group on completions that depend on their place in the global batch. Run under torchrun.

Prints what every rollout spent and what became of its groups. However many ranks share the batch, it must be the same,
also where the completions of a group lie on two of them. With the argument `contradict` the policies of all ranks but
the first give the opposite answers.
"""

import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from accelerate import PartialState
from datasets import Dataset

from tests.support.fixed_rollouts import GROUP_SIZE, PROMPTS, VOCABULARY, tiny_model_path, tiny_tokenizer
from tests.support.ranks import tell
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer
from tinyzero_trl.generation.engine import Engine, EngineSetup, SampledBatch, Sampling
from tinyzero_trl.training.callbacks.events import RolloutCallback
from tinyzero_trl.windows import GroupState
from tinyzero_trl.windows.group import GroupWindow

GLOBAL_BATCH, STEPS, LONGEST = 24, 12, 32
END = 1
MODEL = tiny_model_path()  # before there are ranks: afterwards only the first would save it


class PlacedEngine(Engine):
    """Completions by rollout and global row. Every third group is hopeless, every third answers late."""

    def __init__(self, setup: EngineSetup) -> None:
        super().__init__(setup)
        self._rollouts = 0

    def start(self, prompt_ids: Sequence[list[int]], sampling: Sampling, limit: int) -> SampledBatch:
        """See `Engine`."""
        self._rollouts += 1
        first = PartialState().process_index * len(prompt_ids)
        whole = [self._completion(first + row) for row in range(len(prompt_ids))]
        prompts = [list(ids) for ids in prompt_ids]
        return self._cut(SampledBatch(prompts, whole, [], limit, sampling, state=whole), range(len(whole)), limit)

    def extend(self, batch: SampledBatch, rows: Sequence[int], limit: int) -> SampledBatch:
        """See `Engine`."""
        return self._cut(batch, rows, limit)

    def _cut(self, batch: SampledBatch, rows: Sequence[int], limit: int) -> SampledBatch:
        ids = [whole[:limit] if row in rows else batch.completion_ids[row] for row, whole in enumerate(batch.state)]
        return replace(batch, completion_ids=ids, finished=[each[-1] == END for each in ids], limit=limit)

    def _completion(self, row: int) -> list[int]:
        draw = random.Random(f"{self._rollouts} {row}")
        kind = row // GROUP_SIZE % 3
        succeeds = kind > 0 and draw.random() < 0.6
        length = draw.randint(2, 6) if kind == 1 else draw.randint(16, 30) if succeeds else draw.randint(4, 60)
        text = [draw.randint(4, VOCABULARY - 1) for _ in range(length)]
        return [*text, 3 if succeeds else 4, END]


def ends_in_three(completion_ids: list[list[int]], log_extra: Any, **_: Any) -> list[float]:
    """Also counts how many completions it was asked about."""
    ASKED.append(len(completion_ids))
    log_extra("reason", ["because"] * len(completion_ids))
    return [float(ids[-2:] == [3, END]) for ids in completion_ids]


def nine_tenths(**columns: Any) -> list[float]:
    """The same, on another scale."""
    return [0.9 * reward for reward in ends_in_three(**columns)]


ASKED: list[int] = []


class Rollouts(RolloutCallback):
    """Keeps lengths and fates of every rollout."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.trainer: Any = None

    def on_rollout_end(self, args: Any, state: Any, control: Any, rollout: Any) -> None:
        """Added after the window callback, whose policy has observed the rollout already."""
        policy, seen = self.trainer.window_callback.policy, rollout.observation
        figures = policy.group_metrics()
        self.seen.append({"lengths": list(seen.lengths), "labels": list(seen.labels), **figures})


def train(score: Callable[..., list[float]] = ends_in_three, **fields: Any) -> dict[str, Any]:
    rollouts = Rollouts()
    trainer = AdaptiveGRPOTrainer(
        MODEL,
        score,
        AdaptiveGRPOConfig(
            output_dir=tempfile.mkdtemp(),
            engine="tests.support.groups_by_ranks:PlacedEngine",
            per_device_train_batch_size=GLOBAL_BATCH // int(os.environ.get("WORLD_SIZE", 1)),
            num_generations=GROUP_SIZE,
            max_completion_length=LONGEST,
            max_steps=STEPS,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            window_strategy="group",
            window_label_column="topic",
            window_first_stage=4,
            window_stage_growth=2.0,
            window_min_groups=12,
            window_min_samples=4,
            window_slack=0.5,
            window_group_gain="sequences",
            window_explore_share=0.2,
            **fields,
        ),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 16, "topic": ["any"] * 16 * len(PROMPTS)}),
        processing_class=tiny_tokenizer(),
        callbacks=[rollouts],
    )
    rollouts.trainer = trainer
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {"rollouts": rollouts.seen, "losses": losses, "asked": sum(ASKED)}


def contradict() -> None:
    """Let the policy of this rank say the opposite."""
    answer = GroupWindow.go_on

    def opposite(policy: GroupWindow, groups: Sequence[GroupState]) -> list[bool]:
        return [not goes_on for goes_on in answer(policy, groups)]

    GroupWindow.go_on = opposite  # type: ignore[method-assign]


if __name__ == "__main__":
    if "contradict" in sys.argv and int(os.environ["RANK"]) > 0:
        contradict()
    tell(train())
