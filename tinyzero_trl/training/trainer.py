"""`AdaptiveGRPOTrainer`: TRL's GRPO with a rollout window. The one place that touches TRL's private methods."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl.trainer.utils import get_config_model_id

from tinyzero_trl.metrics import ratio_metrics
from tinyzero_trl.runs.checkpoints import checkpoint_to_resume
from tinyzero_trl.runs.model_card import write_model_card
from tinyzero_trl.runs.records import CONFIG
from tinyzero_trl.training.callbacks.events import AdaptiveWindowCallback, Rollout
from tinyzero_trl.training.callbacks.progress import RolloutProgressCallback
from tinyzero_trl.training.callbacks.records import RecordsCallback
from tinyzero_trl.training.callbacks.safe_points import SaveBetweenRollouts
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.hub import PatientPushTrainer
from tinyzero_trl.training.prompt_order import EpochOrder
from tinyzero_trl.training.scoring import SAMPLED_COMPLETIONS, ScoringTrainer
from tinyzero_trl.windows import RolloutObservation


class AdaptiveGRPOTrainer(PatientPushTrainer, ScoringTrainer):
    """GRPO whose rollouts are as long as a window policy allows.

    What it changes of `trl.GRPOTrainer`, besides the savings of `ExactLossTrainer`, the caution of `GuardedTrainer`,
    the engines of `RolloutTrainer`, the evaluation of `ScoringTrainer` and the pushes of `PatientPushTrainer`:

    - before each training rollout the engine's completion limit is set to the policy's window; before evaluation it
      is set back to `max_completion_length`, which also stays the normaliser of every loss;
    - after each rollout, policy update and evaluation the events of `RolloutCallback` are fired;
    - training continues from the checkpoint that `args.resume` names, by default the newest whole one in `output_dir`:
      what a former run has written there is never lost, but to `resume: never`;
    - the order of the problems depends on seed and epoch alone, and checkpoints are written between two rollouts, so
      that a resumed run continues as if nothing had happened;
    - the progress bar shows reward, window and truncation.

    The first reward function is the verdict: what policies, metrics and evaluation call success. Its reward counts
    even where `reward_weights` gives it no part in the gradient.
    """

    num_generations: int

    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        args: AdaptiveGRPOConfig | None = None,
        *,
        callbacks: Sequence[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        args = _default_config(model) if args is None else args
        if not isinstance(args, AdaptiveGRPOConfig):
            kind = type(args).__name__
            raise ValueError(f"args: a {kind} has no rollout window; give an AdaptiveGRPOConfig with the same fields")
        assert args.max_completion_length is not None, "AdaptiveGRPOConfig checks it"
        self._full_length_tokens = args.max_completion_length
        window_config = args.window_config()
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


def _default_config(model: Any) -> AdaptiveGRPOConfig:
    """What stands for no configuration; the run's folder is named as TRL names it."""
    name = model if isinstance(model, str) else get_config_model_id(model.config)
    return AdaptiveGRPOConfig(f"{name.split('/')[-1]}-GRPO")
