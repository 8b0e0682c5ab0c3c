"""How completions are judged: the rows of a rollout, and held-out problems at the full length."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset

from tinyzero_trl.metrics import evaluation_metrics
from tinyzero_trl.tasks.rewards import completion_text
from tinyzero_trl.training.callbacks.events import Evaluation
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.rollout import RolloutTrainer

SAMPLED_COMPLETIONS = 8
PROBLEM_NUMBER = "held_out_number"


@dataclass
class ScoredRows:
    """The rows of the batch being generated: N of this rank, and the rewards of all ranks (B rows)."""

    lengths: list[int]
    truncated: list[bool]
    difficulties: list[int]
    rewards: list[float]
    samples: list[dict[str, Any]]


def _whole_number(difficulty: Any) -> int:
    """Operands of a problem, 0 where they are not counted: a column of a user's own may hold anything."""
    return difficulty if type(difficulty) is int and difficulty > 0 else 0


def _numbered(dataset: Any) -> Any:
    """Evaluation problems with a number each, by which the one that is answered twice is known."""
    if isinstance(dataset, dict):
        names = ", ".join(map(str, dataset))
        raise ValueError(f"eval_dataset: {names}: each evaluation is of one data set; give one of them, or join them")
    if not isinstance(dataset, Dataset) or PROBLEM_NUMBER in dataset.column_names:
        return dataset
    return dataset.add_column(PROBLEM_NUMBER, list(range(len(dataset))))


class ScoringTrainer(RolloutTrainer):
    """A trainer that knows how each row was judged, and evaluates by the verdict.

    What it changes of its parents, each time by wrapping a method:

    - `_calculate_rewards`: keeps the rewards of the first function, the verdict, with what else is told of a row;
    - `evaluate`: each problem counts once, by its verdict; the sampling has random numbers of its own, so that how
      often one evaluates changes no training step; `eval/` figures join TRL's, and `on_evaluation_end` is fired;
    - `prediction_step`: no loss is computed unless that chooses the best model.
    """

    model: Any
    num_generations_eval: int

    def __init__(self, model: Any, reward_funcs: Any, args: AdaptiveGRPOConfig, **kwargs: Any) -> None:
        self._success_threshold = args.window_config().success_threshold
        self._scored: ScoredRows | None = None
        self._evaluated: list[dict[str, Any]] = []
        kwargs["eval_dataset"] = _numbered(kwargs.get("eval_dataset"))
        super().__init__(model, reward_funcs, args, **kwargs)

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list,
        completions: list,
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        logged = self._pending_extra_logs.get("reason", [""] * len(prompts))
        reasons = logged[: len(prompts)]  # other functions may log them too; the verdict's come first
        local = slice(
            self.accelerator.process_index * len(prompts), (self.accelerator.process_index + 1) * len(prompts)
        )
        rewards = rewards_per_func[:, 0].nan_to_num(0.0, posinf=0.0, neginf=0.0).tolist()  # no number, no success
        lengths = [len(ids) for ids in completion_ids_list]
        truncated = [
            self._is_truncated(ids, completion)
            for ids, completion in zip(completion_ids_list, completions, strict=True)
        ]
        difficulties = [_whole_number(row.get("difficulty")) for row in inputs]
        self._scored = ScoredRows(
            lengths=lengths,
            truncated=truncated,
            difficulties=difficulties,
            rewards=rewards,
            samples=[
                {
                    "source": "train" if self.model.training else "eval",
                    "prompt": completion_text(prompt),
                    "completion": completion_text(completion),
                    "reward": reward,
                    "reason": reason,
                    "length": length,
                    "truncated": cut,
                    "difficulty": difficulty,
                }
                for prompt, completion, reward, reason, length, cut, difficulty in zip(
                    prompts,
                    completions,
                    rewards[local],
                    reasons,
                    lengths,
                    truncated,
                    difficulties,
                    strict=True,
                )
            ],
        )
        return rewards_per_func

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Answer the evaluation problems at the full length; adds the `eval/` figures to TRL's own.

        Raises:
            ValueError: several data sets, whose figures would have one name.
        """
        self._evaluated = []
        started_at = time.perf_counter()
        with self._own_random_numbers():
            metrics = super().evaluate(_numbered(eval_dataset), *args, **kwargs)
        rows = self._each_once(gather_object(self._evaluated))
        figures = evaluation_metrics(
            rewards=[row["reward"] for row in rows],
            lengths=[row["length"] for row in rows],
            truncated=[row["truncated"] for row in rows],
            difficulties=[row["difficulty"] for row in rows],
            success_threshold=self._success_threshold,
        )
        evaluation = Evaluation(figures, time.perf_counter() - started_at, rows[:SAMPLED_COMPLETIONS])
        self._fire("on_evaluation_end", evaluation=evaluation)
        best = self.args.metric_for_best_model  # Trainer looks for it under a prefix of its own
        return {**metrics, **figures} | ({f"eval_{best}": figures[best]} if best in figures else {})

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Answer one batch of evaluation problems. TRL's loss on them is computed only if it chooses the best model."""
        if "loss" in (self.args.metric_for_best_model or ""):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        self._prepare_inputs(inputs)
        return None, None, None

    def _evaluated_rows(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows of this rank; where problems have no numbers, as in a stream, every row counts."""
        assert self._scored is not None, "rewards are calculated in every evaluation batch"
        rank, seen = self.accelerator.process_index, len(self._evaluated)
        return [
            {**sample, "index": problem.get(PROBLEM_NUMBER, f"{rank}:{seen + row}")}
            for row, (problem, sample) in enumerate(zip(inputs, self._scored.samples, strict=True))
        ]

    def _each_once(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The last batch is filled up with repeated problems when ranks do not divide it: here they are left out."""
        counts: Counter[Any] = Counter()
        kept = []
        for row in rows:
            counts[row["index"]] += 1
            if counts[row["index"]] <= self.num_generations_eval:
                kept.append(row)
        return kept

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """Sample with the run's seed, and give training its random state back."""
        device = self.accelerator.device
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
            torch.manual_seed(self._sampling_seed())
            yield

    def _fire(self, event: str, **facts: Any) -> None:
        for callback in self.callback_handler.callbacks:
            if hook := getattr(callback, event, None):
                hook(self.args, self.state, self.control, **facts)
