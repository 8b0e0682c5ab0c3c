"""`AdaptiveGRPOTrainer`: TRL's GRPO with a rollout window. Its methods stand in the order in which a step runs them."""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from trl import GRPOTrainer

from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.runs.model_card import write_model_card
from tinyzero_trl.runs.records import CONFIG
from tinyzero_trl.training import held_out, trl_internals
from tinyzero_trl.training.callbacks.events import fire
from tinyzero_trl.training.callbacks.progress import show_rollouts
from tinyzero_trl.training.callbacks.records import RecordsCallback
from tinyzero_trl.training.callbacks.safe_points import SaveBetweenRollouts
from tinyzero_trl.training.callbacks.window import AdaptiveWindowCallback
from tinyzero_trl.training.config import AdaptiveGRPOConfig, config_or_default
from tinyzero_trl.training.fault_tolerance import FiniteNumbersGuard
from tinyzero_trl.training.loss.attention import attend_without_padding
from tinyzero_trl.training.loss.exact_loss import ExactLoss, LogProbs
from tinyzero_trl.training.preflight import problems, resuming, schedule, trainable
from tinyzero_trl.training.prompt_order import EpochOrder
from tinyzero_trl.training.rollout.completion_limit import CompletionLimit
from tinyzero_trl.training.rollout.group_stages import GroupStages
from tinyzero_trl.training.rollout.rollouts import Rollouts, prepare_engine
from tinyzero_trl.training.rollout.scoring import ScoredRows, gather_rollout, score_rows
from tinyzero_trl.training.saving.checkpoint_writer import CheckpointWriter
from tinyzero_trl.training.saving.hub import RetriedPushes, reached_repository
from tinyzero_trl.training.saving.synced_reference import SyncedReference


class AdaptiveGRPOTrainer(GRPOTrainer):
    """`trl.GRPOTrainer` whose rollouts are as long as a window policy allows.

    Each method wraps its parent's and leaves the work to a collaborator:

    - `limiter`: a training rollout has the policy's window as the engine's limit, evaluation `max_completion_length`.
    - `rollouts`: finished completions leave the batch of `generate`; a completion may end with its answer.
    - `groups`: where the window policy decides per group, a rollout is sampled in stages, and groups stop in between.
    - `loss`: the same gradient without padding and without rows that have none.
    - `guard`: an optimizer step in which a number is not finite is skipped, and too many of them end the run.
    - `evaluator`: each held-out example counts once, by its score, and changes no training step.
    - `checkpoints`: written by all ranks or by none, between two rollouts, with the synchronised `reference`.
    - `hub`: pushes that fail are warnings and tried again.

    Besides, the events of `RolloutCallback` are fired; the order of the examples depends on seed and epoch alone.

    Args:
        model: as for `trl.GRPOTrainer`, like all that is not named here; `embedded` is the model of this package.
        reward_funcs: the reward of the first function is the score: what policies, metrics and evaluation call
            success. It counts even where `reward_weights` gives it no part in the gradient.
        args: an `AdaptiveGRPOConfig`; without one, a default that is named as TRL names it.

    Raises:
        ValueError: `args` is another configuration, or one of its fields cannot be used.
        NonFiniteError: from `train`, after more than `args.max_skipped_steps` broken steps in a row.
    """

    args: AdaptiveGRPOConfig
    model: Any
    processing_class: Any
    _scored: ScoredRows  # the batch being generated, from the call of the reward functions on
    push_in_progress: Any = None

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: AdaptiveGRPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        reward_processing_classes: Any = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
        tools: Any = None,
        rollout_func: Any = None,
        environment_factory: Any = None,
    ) -> None:
        model = resolve_model(model) if isinstance(model, str) else model
        args = config_or_default(args, model)
        trainable.check_trainable(model, peft_config)
        window_config = args.window_config()
        self.window_callback = AdaptiveWindowCallback(window_config, args.max_completion_length)
        self.records_callback = RecordsCallback(self.window_callback, success_threshold=window_config.success_threshold)
        self.hub = RetriedPushes(args)
        self.evaluator = held_out.HeldOutEvaluator(args)
        prepare_engine(args, model, processing_class)
        # Those after the policy see the window of the next rollout; what they ask to save is put in order behind them.
        ours = [self.window_callback, self.records_callback]
        data = (train_dataset, eval_dataset, processing_class, reward_processing_classes)
        others = (optimizers, quantization_config, peft_config, tools, rollout_func, environment_factory)
        super().__init__(model, reward_funcs, args, *data, [*ours, *(callbacks or ()), SaveBetweenRollouts()], *others)
        trainable.check_given_optimizer(optimizers[0], self.model)
        problems.check_datasets(self, train_dataset)
        show_rollouts(self, callbacks or ())
        self.records_callback.follow(self, callbacks or ())
        self.limiter = CompletionLimit(self)
        self.rollouts = Rollouts(self)
        self.groups = GroupStages(self, self.rollouts)
        attend_without_padding(self, args.padding_free)
        self.loss = ExactLoss(self)
        self.guard = FiniteNumbersGuard(self.accelerator, args.max_skipped_steps, str(args.output_dir))
        self.reference = SyncedReference(self.ref_model, self.accelerator, is_synced=args.sync_ref_model)
        self.checkpoints = CheckpointWriter(is_main=self.is_world_process_zero())

    # --- the start ------------------------------------------------------------------------------------------------

    def init_hf_repo(self, token: str | None = None, **options: Any) -> None:
        """Create the repository on the Hub if it is missing; `hub_model_id` stays None if the Hub is not reached."""
        self.hub.create_repository(partial(super().init_hf_repo, token, **options))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as `trl.GRPOTrainer` does; what an earlier run has left in the folder of a new one is moved aside.

        `resume_from_checkpoint`: a folder, True for the newest complete one, False for none, None for `args.resume`.

        Raises:
            ValueError: there is no such checkpoint, or the window cannot hold.
        """
        checkpoint = resuming.asked_checkpoint(resume_from_checkpoint, self.args)
        self.reference.load(checkpoint)
        self.records_callback.begin_from(checkpoint)
        self.rollouts.use_new_weights(self)
        for each in (self.loss, self.guard):
            each.start_over()
        self.groups.check(self.window_callback.policy)
        with held_out.first_for_new_runs(self.args, is_new=checkpoint is None):
            return super().train(checkpoint, *args, **kwargs)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        super()._issue_warnings_after_load(trl_internals.without_tied(load_result, self.model))

    def _set_signature_columns_if_needed(self) -> None:
        """With `remove_unused_columns`, what records and the window policy read stays beside what TRL keeps."""
        super()._set_signature_columns_if_needed()
        trl_internals.keep_columns(self, "difficulty", self.window_callback.label_column)

    def _get_dataloader(self, dataset: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        """Held-out examples have their numbers here alone; `eval_dataset` stays the user's."""
        given = self.evaluator.numbers.given_to(dataset) if description == "Evaluation" else dataset
        return super()._get_dataloader(given, description, *args, **kwargs)

    def _get_train_sampler(self, dataset: Any = None) -> EpochOrder:
        return EpochOrder(super()._get_train_sampler(dataset), lambda: int(self.state.epoch or 0))

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, *checkpoint: Any
    ) -> tuple[int, int]:
        """Epochs trained, and batches of the current epoch: all and none for a run that has taken its `max_steps`."""
        trained = super()._init_training_state(max_steps, num_update_steps_per_epoch, num_train_epochs, *checkpoint)
        schedule.check_best_is_saved(self.args, max_steps)
        self.state.compute_steps(self.args, max_steps)  # the checkpoint's own would win over other save_steps
        return (num_train_epochs, 0) if self.state.global_step >= max_steps else trained

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether to save with `save_strategy: best`: also what is due already, as when a signal stops the run."""
        return self.control.should_save | super()._determine_best_metric(metrics, trial)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self.rollouts.use_new_weights(self)

    # --- a rollout ------------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """The next micro-batch; the rows of a new rollout are regrouped by length."""
        before = trl_internals.rollout_buffer(self)
        inputs = super()._prepare_inputs(generation_batch)
        rollout = trl_internals.rollout_buffer(self)
        if rollout is None or rollout is before:
            return inputs
        batches = self.loss.regroup_by_length(rollout, self.args.gradient_accumulation_steps, self.state.global_step)
        return trl_internals.replace_rollout_buffer(self, batches)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        trl_internals.forget_logs_of_rewards(self)
        generate = trl_internals.unchanged_checkpointing(self.model)(super()._generate_and_score_completions)
        if not self.model.training:
            output = generate(self.evaluator.numbers.taken_from(inputs))
            self.evaluator.add(inputs, self._scored)
            return output
        window, started_at = self.window_callback.window, time.perf_counter()
        with self.limiter.at(window), self.groups.in_stages_of(self.window_callback.policy, inputs):
            output = generate(inputs)
        duration_s, prompts = time.perf_counter() - started_at, output["prompt_mask"].sum(1)
        rollout = gather_rollout(self, self._scored, prompts, window=window, duration_s=duration_s)
        fire(self, "on_rollout_end", rollout=rollout)
        return output

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        model = self.accelerator.unwrap_model(self.model_wrapped, keep_torch_compile=False)
        generate = trl_internals.unchanged_mode(self.model)(super()._generate_single_turn)
        sample = partial(generate, prompt_ids, *args, **kwargs)
        return self.rollouts.sample(sample, model, prompt_ids, step=self.state.global_step)

    def _calculate_rewards(self, inputs: list, prompts: list, completions: list, completion_ids_list: list) -> Any:
        """The rewards of all ranks, (B, reward functions)."""
        with trl_internals.logged_column(self, "reason") as reasons:
            rewards_per_func = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.model.training:
            self.guard.watch_rewards(rewards_per_func)
        self._scored = score_rows(self, rewards_per_func, inputs, prompts, completions, completion_ids_list, reasons)
        return rewards_per_func

    # --- an optimizer step ----------------------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> LogProbs:
        return self.loss.log_probs(super()._get_per_token_logps_and_entropies, model, *args, **kwargs)

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        if not model.training:
            return super()._compute_loss(model, inputs)
        metrics, step = trl_internals.training_metrics(self), self.state.global_step
        loss = self.loss.backward_all_but_last(super()._compute_loss, model, inputs, step=step, metrics=metrics)
        self.guard.watch_loss(loss)
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """The norm of a gradient that is now complete, and that is dropped if the step is to be skipped."""
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        step, rollout = self.state.global_step + 1, trl_internals.rollout_buffer(self) or []
        decode = partial(self.processing_class.batch_decode, skip_special_tokens=True)
        skipped = self.guard.drop_broken_step(model, grad_norm, step=step, rollout=rollout, decode=decode)
        norm = {} if grad_norm is None else {"grad_norm": float(grad_norm)}
        figures = {**norm, **self.loss.pop_figures(), "faults/step_skipped": float(skipped)}
        fire(self, "on_policy_update", figures=figures)
        return grad_norm

    # --- an evaluation --------------------------------------------------------------------------------------------

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict:
        """Answer the held-out examples at full length; adds `eval/` figures, and `eval_NAME/` ones of several sets."""
        return held_out.evaluate(self, super().evaluate, eval_dataset, ignore_keys, metric_key_prefix)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does; our figures of an evaluation join past the trackers, which get them from the records."""
        trl_internals.mode_of_logs(self.model, logs)(super().log)(logs, start_time)
        self.evaluator.join_figures(logs, self.state.log_history[-1:])

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
        """Answer one batch of held-out examples. TRL's loss on them is computed only where it is needed."""
        if self.evaluator.needs_loss:
            return super().prediction_step(model, inputs, *args, **kwargs)
        self._prepare_inputs(inputs)
        return None, None, None

    # --- checkpoints, and pushes to the Hub -----------------------------------------------------------------------

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        parts = 1 if self.args.save_only_model else 3  # the model, the state of random numbers, the reference
        self.checkpoints.write(partial(super()._save_checkpoint, model, trial), folder, state=self.state, parts=parts)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; in a checkpoint, on all ranks or on none."""
        self.checkpoints.write_part(partial(super().save_model, output_dir, _internal_call))

    def _save_rng_state(self, output_dir: str) -> None:
        self.checkpoints.write_part(partial(super()._save_rng_state, output_dir))
        self.checkpoints.write_part(partial(self.reference.save, output_dir))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the project's own card from the records of the run; TRL's where no run was started."""
        if not (Path(str(self.args.output_dir)) / CONFIG).exists():
            super().create_model_card(*args, **kwargs)
        elif self.is_world_process_zero():
            write_model_card(str(self.args.output_dir))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero() and reached_repository(self) is not None:
            self.hub.push_checkpoint(partial(super()._push_from_checkpoint, checkpoint_folder), self.push_in_progress)

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        self.hub.report_failures(self.push_in_progress)

    def wait_for_pushes(self) -> None:
        """Let a push in the background finish, before the files that it uploads change."""
        if self.is_world_process_zero():
            self._finish_current_push()

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save, write the card and upload the run's folder; None if the Hub did not take it."""
        push = partial(super().push_to_hub, commit_message, blocking, token, revision, **kwargs)
        return self.hub.push_run(self, push, commit_message=commit_message, token=token, revision=revision)
