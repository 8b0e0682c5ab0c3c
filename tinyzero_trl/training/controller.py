"""`WindowController`: the rollout window for a stock `trl.GRPOTrainer`, or for any subclass of it."""

from contextlib import nullcontext
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments
from trl import GRPOTrainer

from tinyzero_trl.generation.sampling import recipe_stop_tokens
from tinyzero_trl.training import trl_internals
from tinyzero_trl.training.callbacks.policy import PolicyCallback
from tinyzero_trl.training.config import asked_of_trainer
from tinyzero_trl.training.preflight.mappings import check_no_length
from tinyzero_trl.training.preflight.problems import check_label_column, warn_of_equal_labels
from tinyzero_trl.training.rollout.completion_limit import CompletionLimit
from tinyzero_trl.training.rollout.group_stages import GroupStages
from tinyzero_trl.training.rollout.hints import RolloutHints
from tinyzero_trl.training.rollout.rollouts import Rollouts
from tinyzero_trl.training.rollout.scoring import gather_columns, observation_of, scores
from tinyzero_trl.windows import WindowConfig, WindowPolicy, make_policy
from tinyzero_trl.windows.config import label_column_of


class WindowController(PolicyCallback):
    """Limits each training rollout of a trainer to the window of a policy.

        controller = WindowController(WindowConfig(strategy="signal"))
        controller.attach(trainer)  # any trl.GRPOTrainer, before trainer.train()
        trainer.train()

    While the trainer samples a training rollout, its completions are limited to the policy's window. Evaluation keeps
    `max_completion_length`. After each rollout the policy observes the completions of all ranks. The first reward
    function is the score: a completion is a success if that function gives it `success_threshold` or more. The state
    of the policy is saved in the trainer's checkpoints and restored from them. The figures of the policy are logged
    with those of the trainer, under `adaptive_window/` and `group_window/`.

    A policy that decides per group has the rollouts sampled in stages, as `AdaptiveGRPOTrainer` samples them: finished
    completions leave the batch of `generate`, and the generation settings of the model itself count for nothing.

    The loss stays that of the trainer. `AdaptiveGRPOTrainer` also saves computation in the training step.

    Args:
        config: configuration of the policy. `max` defaults to the trainer's `max_completion_length`. `loss_type`,
            `scale_rewards` and `num_generations` are those of the trainer.

    Raises:
        ValueError: `config` is something else.
    """

    def __init__(self, config: WindowConfig) -> None:
        if not isinstance(config, WindowConfig):
            raise ValueError(f"config: {config!r} is no WindowConfig; give WindowConfig(strategy='signal')")
        self.config = config
        self._trainer: GRPOTrainer | None = None
        self._policy: WindowPolicy | None = None
        self._rollouts: Rollouts | None = None
        self._groups: GroupStages | None = None

    @property
    def policy(self) -> WindowPolicy:
        """The policy; it exists once the controller is attached."""
        if self._policy is None:
            raise ValueError("WindowController: not attached; call controller.attach(trainer) before trainer.train()")
        return self._policy

    @property
    def window(self) -> int:
        """Tokens that a completion of the next rollout may have."""
        return self.policy.window

    def attach(self, trainer: GRPOTrainer) -> "WindowController":
        """Limit the rollouts of `trainer` from now on. Returns the controller.

        Three methods of this one trainer are wrapped: `_generate_and_score_completions`, `_generate_single_turn` and
        `_calculate_rewards`.

        Args:
            trainer: a trainer that has not started to train.

        Raises:
            ValueError: the trainer cannot be limited, or not in stages where the policy needs them, or the window
                exceeds its `max_completion_length`; the message says why.
        """
        _check(trainer, attached=self._policy is not None)
        model: Any = trainer.model
        full_length: Any = trainer.max_completion_length
        policy = make_policy(_within(self.config, trainer))
        rollouts, groups = _stages_for(policy, trainer)
        limit = CompletionLimit(trainer)
        sample, generate = trainer._generate_single_turn, trainer._generate_and_score_completions
        calculate_rewards = trainer._calculate_rewards

        def sampled(prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
            with trl_internals.unchanged_mode(model):
                if rollouts is None:
                    return sample(prompt_ids, *args, **kwargs)
                unwrapped = trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_torch_compile=False)
                at_once = partial(sample, prompt_ids, *args, **kwargs)
                return rollouts.sample(at_once, unwrapped, prompt_ids, step=trainer.state.global_step)

        def limited(inputs: list[dict[str, Any]]) -> dict[str, Any]:
            if self not in trainer.callback_handler.callbacks:
                raise ValueError(
                    "WindowController: it was removed from the callbacks of the trainer, which does not take the "
                    "window off; make a new trainer"
                )
            if not model.training:
                with limit.at(full_length):
                    return generate(inputs)
            if not _takes_whole_steps(trainer.args):
                policy.begin_at_step(trainer.state.global_step)  # observations count in whole steps
            if groups is None and policy.samples_in_stages:
                raise ValueError(
                    f"window_strategy: {policy.config.strategy!r} has stages now, and had none when it was attached; "
                    "let its samples_in_stages be True from the start"
                )
            in_stages = groups.in_stages_of(policy, inputs) if groups else nullcontext()
            with limit.at(policy.window), in_stages:
                return generate(inputs)

        def observed(inputs: Any, prompts: Any, completions: Any, completion_ids: list[list[int]]) -> torch.Tensor:
            rewards = calculate_rewards(inputs, prompts, completions, completion_ids)
            if model.training:
                self._observe(trainer, completion_ids, rewards, window=limit.tokens)
            return rewards

        wrapped: Any = trainer  # its own methods stay what they are; these three stand before them
        wrapped._generate_single_turn = sampled
        wrapped._generate_and_score_completions = limited
        wrapped._calculate_rewards = observed
        trainer.add_callback(self)
        self._trainer, self._policy, self._rollouts, self._groups = trainer, policy, rollouts, groups
        self._hints = RolloutHints(policy.config, full_length=full_length)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "WindowController":
        """Refuse to copy a trainer together with its controller: the copy would sample with the original.

        Raises:
            ValueError: says what to do.
        """
        raise ValueError("WindowController: a trainer with a controller cannot be copied; make a new trainer")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the policy where training begins, once it has the state of the checkpoint.

        What an interrupted training has left is dropped, since its rollout and its figures have other windows.
        """
        super().on_train_begin(args, state, control, **kwargs)
        self.policy.begin_at_step(state.global_step)
        assert self._trainer is not None, "the policy is there"
        trl_internals.forget_rollout(self._trainer)
        trl_internals.forget_unlogged_figures(self._trainer)

    def _observe(
        self, trainer: GRPOTrainer, completion_ids: list[list[int]], rewards: torch.Tensor, *, window: int
    ) -> None:
        """Show the policy the rollout of all ranks.

        Args:
            trainer: has sampled the rollout.
            completion_ids: token ids of this rank's completions.
            rewards: (B, reward functions) over all ranks; the first is the score.
            window: tokens that a completion could have.
        """
        lengths = [len(ids) for ids in completion_ids]
        if max(lengths, default=0) > window:
            raise ValueError(
                f"WindowController: a completion has {max(lengths)} tokens, and the window is {window}; "
                f"{type(trainer).__name__} does not sample with TRL's own completion limit, so it has no window"
            )
        if self._rollouts:
            cut = [self._rollouts.ends.is_cut(ids) for ids in completion_ids]
        else:
            ends = {*trainer.eos_token_ids, *recipe_stop_tokens(vars(trainer.args))}
            # one that ended there with a stop string counts as cut, too
            cut = [len(ids) == window and ids[-1] not in ends for ids in completion_ids]
        columns = torch.tensor([lengths, cut], device=trainer.accelerator.device)
        of_all, cut_of_all = gather_columns(trainer, columns)
        facts = self._groups.facts() if self._groups else {}
        self._show(observation_of(trainer, of_all, cut_of_all, scores(rewards), window=window, **facts), trainer.state)
        for name, value in self.figures().items():
            trl_internals.training_metrics(trainer)[name].append(value)


def _within(config: WindowConfig, trainer: Any) -> WindowConfig:
    """The configuration with its largest window and the fields that are the trainer's."""
    full_length = trainer.max_completion_length
    if config.max is not None and config.max > full_length:
        raise ValueError(
            f"max: {config.max} exceeds the trainer's max_completion_length {full_length}; lower it, or raise "
            "max_completion_length"
        )
    asked = asked_of_trainer(type(config), trainer.args)
    defaults = {declared.name: declared.default for declared in fields(config)}
    for name, theirs in asked.items():
        if (given := getattr(config, name)) not in (defaults[name], theirs):
            raise ValueError(f"{name}: {given!r} is not the trainer's, which is {theirs!r}; leave it out")
    return replace(config, max=config.max or full_length, **asked)


def _takes_whole_steps(args: Any) -> bool:
    """Whether each rollout serves as many optimizer steps as its observation says."""
    return int(args.steps_per_generation) * args.num_iterations % args.gradient_accumulation_steps == 0


def _stages_for(policy: WindowPolicy, trainer: Any) -> tuple[Rollouts | None, GroupStages | None]:
    """What samples the rollouts of the policy in stages; nothing where it has none, and the trainer samples as ever."""
    check_label_column(trainer.train_dataset.column_names, policy.config, trainer.args)
    warn_of_equal_labels(trainer.train_dataset, policy.config, trainer.args)
    if not policy.samples_in_stages:
        return None, None
    rollouts = Rollouts(trainer)
    groups = GroupStages(trainer, rollouts)
    groups.check(policy)
    trl_internals.keep_columns_of_stock(trainer, label_column_of(policy.config))
    return rollouts, groups


def _check(trainer: Any, attached: bool) -> None:
    """Refuse a trainer that the controller cannot limit."""
    from tinyzero_trl.training.trainer import AdaptiveGRPOTrainer

    name = type(trainer).__name__
    if not isinstance(trainer, GRPOTrainer):
        raise ValueError(f"trainer: {name} is no trl.GRPOTrainer; give one, or a subclass of it")
    is_ours, samples_itself = isinstance(trainer, AdaptiveGRPOTrainer), trainer.rollout_func is not None
    others = [each for each in trainer.callback_handler.callbacks if isinstance(each, WindowController)]
    has_no_limit, tools = trainer.max_completion_length is None, trainer.tools
    reasons = {
        "has a window of its own; set the window_* fields of its configuration": is_ours,
        "has a controller already; attach one controller to one trainer": attached or others,
        "has started to train; attach the controller before trainer.train()": trainer.is_in_train,
        "samples with a rollout_func, which sets its own limit; use the trainer's own generation": samples_itself,
        "calls tools between parts of a completion, and the limit is one of each part; train without tools": tools,
        "has max_completion_length None, so that the window has no largest value; set it": has_no_limit,
        "has restore_callback_states_from_checkpoint set, which would build the controller anew; set it to False, the "
        "controller restores its state by itself": trainer.args.restore_callback_states_from_checkpoint,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"trainer: this {name} {reason}")
    check_no_length(vars(trainer.args)["generation_kwargs"] or {})
