"""Train a language model with GRPO on Countdown or multiplication, under an adaptive rollout window.

    accelerate launch --config_file configs/accelerate/cpu.yaml \
        recipes/countdown_adaptive.py --config recipes/countdown_tiny.yaml [--any_field value ...]

Every field of the recipe can be given on the command line. The same program trains the baselines: give
`--window_strategy fixed`. What a run leaves behind is described in the README under "A run's folder".
"""

import sys

from datasets import Dataset
from transformers import AutoTokenizer
from trl import ModelConfig, get_peft_config

from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer
from tinyzero_trl.checkpoints import checkpoint_to_resume
from tinyzero_trl.config import TaskConfig, parse_recipe
from tinyzero_trl.data import load_split, to_dataset, train_test_problems
from tinyzero_trl.loading import model_init_kwargs
from tinyzero_trl.progress import log_to_stderr, quiet_without_terminal
from tinyzero_trl.rewards import reward_functions
from tinyzero_trl.run import check_launch, finish_run, start_run
from tinyzero_trl.tinymodel import resolve_model


def load_problems(task: TaskConfig) -> tuple[Dataset, Dataset]:
    """Training and held-out problems; the held-out ones are numbered, so that each counts once."""
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
    held_out = held_out.select(range(min(task.eval_size, len(held_out))))
    return train, held_out.add_column("index", list(range(len(held_out))))


def build_trainer(task: TaskConfig, training: AdaptiveGRPOConfig, model: ModelConfig) -> AdaptiveGRPOTrainer:
    """Everything that a run needs; downloads and loads, but does not train."""
    path = resolve_model(str(model.model_name_or_path))
    training.model_init_kwargs = model_init_kwargs(model, training)
    rewards, training.reward_weights = reward_functions(task.task, task.shaping(training.max_completion_length))
    train, held_out = load_problems(task)
    return AdaptiveGRPOTrainer(
        path,
        rewards,
        training,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=AutoTokenizer.from_pretrained(path, revision=model.model_revision, padding_side="left"),
        peft_config=get_peft_config(model),
    )


def main() -> int:
    """Parse, build, train, evaluate, write down."""
    log_to_stderr()
    quiet_without_terminal()
    try:
        check_launch()
        task, training, model = parse_recipe()
        checkpoint = checkpoint_to_resume(training.resume, str(training.output_dir))
        training.eval_on_start = checkpoint is None
        trainer = build_trainer(task, training, model)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    start_run(trainer, task, model)
    trainer.train(resume_from_checkpoint=checkpoint)
    finish_run(trainer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
