"""Train while numbers and disks break, on fixed rollouts; run under torchrun, every rank prints what it saw."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback

from tests.support.fixed_rollouts import (
    GROUP_SIZE,
    LONGEST_COMPLETION,
    PROMPTS,
    FixedRollouts,
    tiny_model_path,
    tiny_tokenizer,
)
from tests.support.ranks import tell
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer
from tinyzero_trl.training.fault_tolerance import NonFiniteError

MODEL = tiny_model_path()  # before there are ranks: afterwards only the first would save it


def odd_length(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(len(ids) % 2) for ids in completion_ids]


class FaultyTrainer(AdaptiveGRPOTrainer):
    """Breaks `fault` in the optimizer steps `at`, on the last rank alone."""

    def __init__(self, *args: Any, fault: str, at: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fault, self.at = fault, at
        backward = self.loss.backward_all_but_last
        self.loss.backward_all_but_last = lambda *given, **more: (
            backward(*given, **more) * (torch.nan if self.is_broken("loss") else 1.0)
        )

    def is_broken(self, fault: str) -> bool:
        is_last = self.accelerator.process_index == self.accelerator.num_processes - 1
        return is_last and fault == self.fault and self.state.global_step + 1 in self.at

    def _clip_grad_norm(self, model: Any) -> Any:
        if self.is_broken("gradient norm"):
            next(model.parameters()).grad[0] = torch.inf
        return super()._clip_grad_norm(model)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.fault == "disk, first rank" and self.state.global_step in self.at:
            raise OSError(28, "No space left on device")

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(f"{__file__}/below" if self.is_broken("disk, last rank") else output_dir)


class Movements(TrainerCallback):
    """Whether each optimizer step changed anything, weights or moments."""

    def __init__(self) -> None:
        self.moved: list[bool] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._before = self._everything(**kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        after = self._everything(**kwargs)
        same = len(after) == len(self._before) and all(map(torch.equal, after, self._before))
        self.moved.append(not same)

    @staticmethod
    def _everything(model: Any, optimizer: Any, **_: Any) -> list[torch.Tensor]:
        moments = [value for state in optimizer.state.values() for value in state.values()]
        return [value.detach().clone() for value in (*model.parameters(), *moments)]


def train(fault: str, at: tuple[int, ...] = (), folder: str | None = None, **settings: Any) -> dict[str, Any]:
    """What became of a run of four optimizer steps on two rollouts, in which `fault` strikes in the steps `at`."""
    folder = folder or tempfile.mkdtemp()

    def reward(completion_ids: list[list[int]], **options: Any) -> list[float]:
        rewards = odd_length(completion_ids)
        if trainer.is_broken("reward"):
            rewards[0] = torch.inf
        if trainer.is_broken("no score"):
            rewards = [None] * len(rewards)  # type: ignore[list-item]
        if trainer.is_broken("one row without score"):
            rewards[0] = None  # type: ignore[call-overload]
        return rewards

    defaults: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": 8,
        "num_generations": GROUP_SIZE,
        "num_iterations": 2,
        "window_strategy": "fixed",  # the only one under a rollout_func
        "max_completion_length": LONGEST_COMPLETION,
        "max_tokens_per_micro_batch": 60,
        "max_steps": 4,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "eval_strategy": "no",
        "per_device_eval_batch_size": 2,
        "num_generations_eval": 1,
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": False,
    }
    movements, error = Movements(), ""
    trainer = FaultyTrainer(
        MODEL,
        reward,
        AdaptiveGRPOConfig(**(defaults | settings)),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 8}),
        eval_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=tiny_tokenizer(),
        rollout_func=FixedRollouts(),
        callbacks=[movements],
        fault=fault,
        at=at,
    )
    try:
        trainer.train()
    except NonFiniteError as stopped:
        error = str(stopped)
    checkpoints = sorted(each.name for each in Path(folder).glob("checkpoint-*"))
    return {
        "folder": folder,
        "moved": movements.moved,
        "error": error,
        "checkpoints": checkpoints,
        "checkpoint_error": trainer.checkpoints.error,
        "weights": sum(value.double().sum().item() for value in trainer.model.state_dict().values()),
    }


if __name__ == "__main__":
    tell([train(**run) for run in json.loads(sys.argv[1])])
