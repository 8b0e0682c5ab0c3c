"""Train a language model with GRPO on Countdown or multiplication, under an adaptive rollout window.

    accelerate launch --config_file configs/accelerate/cpu.yaml \
        recipes/countdown_adaptive.py --config recipes/countdown_tiny.yaml [--any_field value ...]

Every field of the recipe can be given on the command line. The same program trains the baselines: give
`--window_strategy fixed`. What a run leaves behind is described in the README under "A run's folder".
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from safetensors import SafetensorError
from transformers import TrainerCallback
from trl import ModelConfig, get_peft_config

from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer
from tinyzero_trl.commands.console import one_line
from tinyzero_trl.models.toy import resolve_model
from tinyzero_trl.runs.checkpoints import checkpoint_to_resume, is_last
from tinyzero_trl.runs.files import unless_it_fails
from tinyzero_trl.runs.records import is_finished
from tinyzero_trl.tasks.config import TaskConfig
from tinyzero_trl.tasks.datasets import load_split, to_dataset, train_test_problems
from tinyzero_trl.tasks.rewards import reward_functions
from tinyzero_trl.training.callbacks.progress import log_to_stderr, quiet_without_terminal
from tinyzero_trl.training.callbacks.safe_points import EXIT_STOPPED_BY_SIGNAL, StopOnSignal
from tinyzero_trl.training.fault_tolerance import NonFiniteError
from tinyzero_trl.training.model_kwargs import model_init_kwargs
from tinyzero_trl.training.preflight.disk import check_disk
from tinyzero_trl.training.preflight.launch import check_backend, check_launch
from tinyzero_trl.training.preflight.run import check_run
from tinyzero_trl.training.recipe import parse_recipe
from tinyzero_trl.training.run import finish_run, start_run


def load_problems(task: TaskConfig) -> tuple[Dataset, Dataset]:
    """Training and held-out problems."""
    if task.dataset == "generate":
        problems = train_test_problems(
            task.task,
            train_size=task.train_size,
            test_size=task.test_size,
            seed=task.problem_seed,
            **task.generator_options(),
        )
        train, held_out = (to_dataset(each, task=task.task, template=task.prompt_template) for each in problems)
    else:
        train, held_out = (
            load_split(task.dataset, task=task.task, template=task.prompt_template, split=split)
            for split in ("train", "test")
        )
    return train, held_out.select(range(min(task.eval_size, len(held_out))))


def build_trainer(
    task: TaskConfig, training: AdaptiveGRPOConfig, model: ModelConfig, callbacks: Sequence[TrainerCallback] = ()
) -> AdaptiveGRPOTrainer:
    """Everything that a run needs; downloads and loads, but does not train."""
    path = resolve_model(str(model.model_name_or_path))
    rewards, training.reward_weights = reward_functions(task.task, task.shaping(training.max_completion_length))
    train, held_out = load_problems(task)
    tokenizer = check_run(path, task, training, model, train)
    training.model_init_kwargs = model_init_kwargs(model, training)
    with unless_it_fails(Path(str(training.output_dir))):
        return AdaptiveGRPOTrainer(
            path,
            rewards,
            training,
            train_dataset=train,
            eval_dataset=held_out,
            processing_class=tokenizer,
            peft_config=get_peft_config(model),
            callbacks=callbacks,
        )


def is_over(training: AdaptiveGRPOConfig) -> bool:
    """Whether the run in `output_dir` has trained to its end and told its result; says so."""
    checkpoint = checkpoint_to_resume(training.resume, str(training.output_dir))
    over = checkpoint is not None and is_last(checkpoint, training.max_steps, training.num_train_epochs)
    if not over or training.push_to_hub or not is_finished(str(training.output_dir)):
        return False
    if training.process_index == 0:
        print(f"{training.output_dir} is finished: for another run give another --output_dir, or --resume never")
    return True


def main() -> int:
    """Parse, build, train, evaluate, write down. What each exit status means is said in docs/survival.md."""
    log_to_stderr()
    quiet_without_terminal()
    stop = StopOnSignal()
    stop.listen()
    try:
        check_launch()
        task, training, model = parse_recipe()
        if is_over(training):
            return 0
        training.eval_on_start = True
        check_disk(training)
        trainer = build_trainer(task, training, model, callbacks=[stop])
        check_disk(training, trainer.model)
        check_backend(trainer)
    except (ValueError, OSError, ImportError) as error:  # ImportError: a library that the recipe asks for
        return say_error(error, status=2)
    try:
        start_run(trainer, task, model)
        trainer.train()
        if stop.was_stopped:
            return 1 if trainer.checkpoint_error else EXIT_STOPPED_BY_SIGNAL
        finish_run(trainer)
    except (NonFiniteError, OSError, SafetensorError) as error:
        return say_error(error, status=1)
    return 0


def say_error(error: Exception, status: int) -> int:
    """One line, and the exit status to leave with."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
