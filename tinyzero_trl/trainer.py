"""`AdaptiveGRPOTrainer`: TRL's GRPO with a rollout window. The one place that touches TRL's private methods."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from tinyzero_trl.callbacks import AdaptiveWindowCallback, Evaluation, Rollout
from tinyzero_trl.card import write_model_card
from tinyzero_trl.checkpoints import checkpoint_to_resume
from tinyzero_trl.config import AdaptiveGRPOConfig
from tinyzero_trl.hub import PatientPushTrainer
from tinyzero_trl.metrics import evaluation_metrics, ratio_metrics
from tinyzero_trl.progress import RolloutProgressCallback
from tinyzero_trl.recording import RecordsCallback
from tinyzero_trl.records import CONFIG
from tinyzero_trl.rewards import completion_text
from tinyzero_trl.rollouts import RolloutTrainer
from tinyzero_trl.safe_points import SaveBetweenRollouts
from tinyzero_trl.sampling import EpochOrder
from tinyzero_trl.windows import RolloutObservation

SAMPLED_COMPLETIONS = 8
PROBLEM_NUMBER = "held_out_number"


@dataclass
class _ScoredRows:
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


class AdaptiveGRPOTrainer(PatientPushTrainer, RolloutTrainer):
    """GRPO whose rollouts are as long as a window policy allows.

    What it changes of `trl.GRPOTrainer`, besides the savings of `ExactLossTrainer`, the caution of `GuardedTrainer`,
    the engines of `RolloutTrainer` and the pushes of `PatientPushTrainer`:

    - before each training rollout the engine's completion limit is set to the policy's window; before evaluation it
      is set back to `max_completion_length`, which also stays the normaliser of every loss;
    - after each rollout, policy update and evaluation the events of `RolloutCallback` are fired;
    - evaluation samples with random numbers of its own, so that how often one evaluates changes no training step, and
      computes no loss unless that chooses the best model;
    - training continues from the checkpoint that `args.resume` names, by default the newest whole one in `output_dir`:
      what a former run has written there is never lost, but to `resume: never`;
    - the order of the problems depends on seed and epoch alone, and checkpoints are written between two rollouts, so
      that a resumed run continues as if nothing had happened;
    - the progress bar shows reward, window and truncation.

    The first reward function is the verdict: what policies, metrics and evaluation call success. Its reward counts
    even where `reward_weights` gives it no part in the gradient.
    """

    model: Any
    num_generations: int
    num_generations_eval: int

    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        args: AdaptiveGRPOConfig,
        *,
        callbacks: Sequence[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        assert args.max_completion_length is not None, "AdaptiveGRPOConfig checks it"
        kwargs["eval_dataset"] = _numbered(kwargs.get("eval_dataset"))
        self._full_length_tokens = args.max_completion_length
        window_config = args.window_config()
        self._success_threshold = window_config.success_threshold
        self._scored: _ScoredRows | None = None
        self._evaluated: list[dict[str, Any]] = []
        self.window_callback = AdaptiveWindowCallback(window_config)
        self.records_callback = RecordsCallback(
            self.window_callback.policy, success_threshold=window_config.success_threshold
        )
        # First whether a step is saved, which decides what is logged. The policy comes before those who listen to
        # rollouts: they see the window of the next one.
        ours = [SaveBetweenRollouts(), self.window_callback, self.records_callback, RolloutProgressCallback()]
        super().__init__(model, reward_funcs, args, callbacks=[*ours, *(callbacks or ())], **kwargs)
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, from the checkpoint that `args.resume` stands for unless another is given.

        An evaluation before the first step (`eval_on_start`) is that of a new run alone.

        Raises:
            ValueError: `args.resume` is a path without a whole checkpoint.
        """
        if resume_from_checkpoint is None:
            resume_from_checkpoint = checkpoint_to_resume(self.args.resume, str(self.args.output_dir))
        self.args.eval_on_start = self.args.eval_on_start and not resume_from_checkpoint
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _get_train_sampler(self, dataset: Any = None) -> EpochOrder:
        return EpochOrder(super()._get_train_sampler(dataset), lambda: int(self.state.epoch or 0))

    # --- rollouts ---------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            self._set_completion_limit(self._full_length_tokens)
            output = super()._generate_and_score_completions(inputs)
            self._evaluated.extend(self._evaluated_rows(inputs))
            return output
        window = self.window_callback.window
        self._set_completion_limit(window)
        started_at = time.perf_counter()
        output = super()._generate_and_score_completions(inputs)
        rollout = self._gathered_rollout(window, output["prompt_mask"].sum(1), time.perf_counter() - started_at)
        self._fire("on_rollout_end", rollout=rollout)
        return output

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list,
        completions: list,
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        reasons = self._pending_extra_logs.get("reason", [""] * len(prompts))[
            : len(prompts)
        ]  # the verdict's come first
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
        self._scored = _ScoredRows(
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

    def _gathered_rollout(self, window: int, prompt_lengths: torch.Tensor, duration_s: float) -> Rollout:
        """The batch over all ranks, in the order in which TRL groups it."""
        scored = self._scored
        assert scored is not None, "rewards are calculated in every rollout"
        local = torch.tensor([scored.lengths, scored.truncated, scored.difficulties], device=prompt_lengths.device)
        table = self.accelerator.gather(torch.cat([local, prompt_lengths.unsqueeze(0)]).T.contiguous())  # (B, 4)
        lengths, truncated, difficulties, prompts = table.T.tolist()
        observation = RolloutObservation(
            step=self.state.global_step,
            window=window,
            lengths=lengths,
            rewards=scored.rewards,
            truncated=[bool(cut) for cut in truncated],
            groups=[row // self.num_generations for row in range(len(lengths))],
            optimizer_steps=self.args.optimizer_steps_per_rollout,
        )
        return Rollout(
            observation=observation,
            prompt_lengths=prompts,
            difficulties=difficulties if any(difficulties) else None,
            duration_s=duration_s,
            samples=scored.samples[:SAMPLED_COMPLETIONS],
        )

    # --- evaluation -------------------------------------------------------------------------------------------

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
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self._sampling_seed())
            yield

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the project's own card in place of TRL's, from the records of the run."""
        if self.is_world_process_zero() and (Path(str(self.args.output_dir)) / CONFIG).exists():
            write_model_card(str(self.args.output_dir))

    # --- policy updates ---------------------------------------------------------------------------------------

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """The norm; the gradient of an optimizer step is complete, and the update's figures are fired."""
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._fire("on_policy_update", figures=self._update_figures())
        return grad_norm

    def _update_figures(self) -> dict[str, float]:
        """`actor/`, `compute/` and `faults/` figures of the optimizer step's own passes, over all ranks."""
        log_ratios = self.accelerator.pad_across_processes(self.pop_log_ratios(), pad_index=torch.nan)
        log_ratios = self.accelerator.gather(log_ratios).float().cpu().numpy()
        counts = self.pop_compute_counts()
        rows, skipped, tokens, positions = self.accelerator.reduce(
            torch.tensor(
                [counts.rows, counts.rows_skipped, counts.tokens, counts.positions],
                dtype=torch.float64,
                device=self.accelerator.device,
            )
        ).tolist()
        figures = ratio_metrics(
            log_ratios, clip_low=self.epsilon_low, clip_high=self.epsilon_high, mask=~np.isnan(log_ratios)
        )
        figures["faults/step_skipped"] = float(self.step_was_skipped)
        if rows:
            figures["compute/rows_skipped_frac"] = skipped / rows
        if positions:
            figures["compute/padding_frac"] = 1 - tokens / positions
        return figures

    def _fire(self, event: str, **facts: Any) -> None:
        for callback in self.callback_handler.callbacks:
            if hook := getattr(callback, event, None):
                hook(self.args, self.state, self.control, **facts)
