"""The beginning and the end of a training run: what it is made of, what is written down before, and what after."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerCallback
from trl import ModelConfig, get_peft_config

from tinyzero_trl.models.adapters import base_of_adapter
from tinyzero_trl.models.fingerprint import model_files
from tinyzero_trl.models.loading import load_model_config, load_trainable_adapter
from tinyzero_trl.models.names import name_of, resolve_model
from tinyzero_trl.models.toy.curricula import taught_problems
from tinyzero_trl.runs.checkpoints import SEARCHED, checkpoint_to_resume, is_last, step_of, written_checkpoints
from tinyzero_trl.runs.hub_access import offline_if_silent
from tinyzero_trl.runs.model_card import write_model_card
from tinyzero_trl.runs.records import TASK_OPTIONS, Run, RunRecords, answers_of, is_finished, name_of_folder, read_run
from tinyzero_trl.tasks.config import GENERATE, TaskConfig
from tinyzero_trl.tasks.datasets import to_dataset
from tinyzero_trl.tasks.rewards import RewardFunction, reward_functions
from tinyzero_trl.tasks.sources import is_on_hub
from tinyzero_trl.tasks.splits import load_splits
from tinyzero_trl.training.callbacks.safe_points import StopOnSignal
from tinyzero_trl.training.config import WINDOW_PREFIX, AdaptiveGRPOConfig
from tinyzero_trl.training.model_kwargs import model_init_kwargs
from tinyzero_trl.training.preflight.resuming import check_continued, digest_of_prompts, example_digests
from tinyzero_trl.training.preflight.run import check_model_and_examples, check_run, check_settings
from tinyzero_trl.training.recipe.renamed import RENAMED
from tinyzero_trl.training.trainer import AdaptiveGRPOTrainer

logger = logging.getLogger(__name__)


def load_problems(task: TaskConfig, model: str = "") -> tuple[Dataset, Dataset]:
    """Training and held-out problems; warns of held-out ones that a shipped `model` has been taught."""
    splits = load_splits(task)
    if splits.note:
        logger.info(splits.note)
    made = task.make_task()
    taught = taught_problems(model, task.task)
    known = sum(made.key(example) in taught for example in splits.held_out) if taught else 0
    if known:
        logger.warning(
            "test_size: %d of the %d held-out problems were in the warm start of %s, so that accuracy is too high; "
            "take the test_size and problem_seed of the recipe for it",
            known,
            len(splits.held_out),
            model,
        )
    train, held_out = (
        to_dataset(examples, task=made, template=task.prompt_template) for examples in (splits.train, splits.held_out)
    )
    return train, held_out.select(range(task.settle_eval_size(len(held_out))))


def check_beforehand(
    task: TaskConfig, training: AdaptiveGRPOConfig, model: ModelConfig, load: Callable[[TaskConfig], Any]
) -> None:
    """What a run checks before it loads its model, long before its turn: nothing is downloaded, no run's folder read.

    Where the model or the data set is not on this machine, the recipe alone is checked: it may be on the Hub, or be
    made by another run.

    Args:
        task: the problems.
        training: the settings of the run.
        model: what the recipe says of the model.
        load: gives what `load_problems` does; for several runs it need not load the same problems again.

    Raises:
        ValueError: as `check_settings` and `check_model_and_examples` do.
        OSError: a file of the model or the problems cannot be read.
    """
    check_settings(training, model)
    _rewards(task, training)
    path = resolve_model(str(model.model_name_or_path))
    if Path(path).is_dir() and (task.dataset == GENERATE or not is_on_hub(task.dataset)):
        config = load_model_config(path, revision=model.model_revision)
        train, held_out = load(task)
        check_model_and_examples(path, config, training, model, train, held_out)


def _rewards(task: TaskConfig, training: AdaptiveGRPOConfig) -> tuple[list[RewardFunction], list[float] | None]:
    assert training.max_completion_length is not None, "AdaptiveGRPOConfig checks it"
    shaping = task.shaping(training.max_completion_length)
    return reward_functions(task.make_task(), shaping, training.window_config().success_threshold)


def build_trainer(
    task: TaskConfig, training: AdaptiveGRPOConfig, model: ModelConfig, callbacks: Sequence[TrainerCallback] = ()
) -> AdaptiveGRPOTrainer:
    """Everything that a run needs; downloads and loads, but does not train."""
    path = resolve_model(str(model.model_name_or_path))
    config = load_model_config(path, revision=model.model_revision)  # a wrong name is known before problems are made
    rewards, training.reward_weights = _rewards(task, training)
    train, held_out = load_problems(task, str(model.model_name_or_path))
    checkpoint = checkpoint_to_resume(training.resume, str(training.output_dir))
    tokenizer = check_run(path, config, training, model, train, held_out, checkpoint)
    if checkpoint is not None:
        changes = check_continued(checkpoint, resolved_config(task, training, model))
        changed = ", ".join(f"{name} ({change})" for name, change in changes.items())
        logger.info("resume: continues from %s%s", checkpoint, changed and f"; changed: {changed}")
    loading, is_adapter = model_init_kwargs(model, training, config), base_of_adapter(path) is not None
    training.model_init_kwargs = None if is_adapter else loading  # TRL warns of those it has no use for
    with offline_if_silent(path):  # TRL loads anew
        return AdaptiveGRPOTrainer(
            load_trainable_adapter(path, **loading) if is_adapter else path,
            rewards,
            training,
            train_dataset=train,
            eval_dataset=held_out,
            processing_class=tokenizer,
            peft_config=None if is_adapter else get_peft_config(model),
            callbacks=callbacks,
        )


def is_over(task: TaskConfig, training: AdaptiveGRPOConfig, model: ModelConfig) -> bool:
    """Whether the run in `output_dir` has trained to its end and told its result; says so.

    Raises:
        ValueError: the recipe is another than that of the run, or a finished run without a checkpoint would be longer.
    """
    folder = str(training.output_dir)
    checkpoint = checkpoint_to_resume(training.resume, folder)
    finished = training.resume != "never" and is_finished(folder)
    if checkpoint is None and not finished:
        return False
    changes = check_continued(checkpoint or folder, resolved_config(task, training, model))
    if checkpoint is not None:
        written = written_checkpoints(folder) if training.resume in SEARCHED else {}
        last = str(written[max(written)]) if written else checkpoint  # a run has ended, whatever its last one has lost
        is_at_end = is_last(last, training.max_steps, training.num_train_epochs)
        if not is_at_end or training.push_to_hub or not finished:
            return False
    elif {"max_steps", "num_train_epochs"} & set(changes):
        raise ValueError(
            f"resume: {folder!r} is finished and holds no checkpoint, from which it could be made longer; give "
            "--resume never, or another output_dir"
        )
    elif training.push_to_hub:
        raise ValueError(f"push_to_hub: {folder!r} is finished and holds no checkpoint to load; push it with hf upload")
    if training.process_index == 0:
        print(f"{training.output_dir} is finished: for another run give another --output_dir, or --resume never")
    return True


def start_run(trainer: AdaptiveGRPOTrainer, task: TaskConfig | None = None, model: ModelConfig | None = None) -> None:
    """Let the training write `config.yaml` and `environment.json` when it begins; a recipe is not needed.

    Before that, what an earlier run has left in the folder is moved aside, unless the training continues that run.

    Raises:
        ValueError: the trainer has no held-out examples, by which `finish_run` would measure the run.
    """
    if trainer.eval_dataset is None:
        raise ValueError("eval_dataset: finish_run measures held-out accuracy; give the trainer an eval_dataset")
    if not trainer.is_world_process_zero():
        return
    model_config = trainer.accelerator.unwrap_model(trainer.model).config
    name = model_config.name_or_path
    described = {"model_name_or_path": name_of(name), "recipe": name_of_folder(str(trainer.args.output_dir))}
    trainer.records_callback.describe(
        described | resolved_config(task, trainer.args, model),
        devices=[str(trainer.accelerator.device)],
        processes=trainer.accelerator.num_processes,
        distributed=trainer.accelerator.distributed_type.value,
        model_files=model_files(resolve_model(str(model.model_name_or_path)) if model else name, model_config),
        examples=example_digests(trainer.train_dataset, trainer.eval_dataset),
        **digest_of_prompts(trainer.eval_dataset),
        **({TASK_OPTIONS: sorted(task.task_options())} if task else {}),
    )


def resolved_config(task: TaskConfig | None, training: AdaptiveGRPOConfig, model: ModelConfig | None) -> dict[str, Any]:
    """Every field of a run under its flat name, defaults filled in, tokens left out.

    Of the window fields there are those that the run's window policy reads. A field that Transformers has renamed
    stands under the name that every version of it knows, so that another version can read what is written.
    """
    recipe = {**(asdict(task) if task else {}), **(model.__dict__ if model else {})}
    window = training.window_config()
    read = [each.name for each in fields(window) if not each.metadata.get("of_trainer")]
    windows = {f"{WINDOW_PREFIX}{name}": asdict(window)[name] for name in read}
    plain = {name: value for name, value in training.to_dict().items() if name not in RENAMED}
    others = {name: value for name, value in plain.items() if not name.startswith(WINDOW_PREFIX)}
    return {**recipe, **others, **windows}


def finish_run(trainer: AdaptiveGRPOTrainer) -> None:
    """Evaluate if the last step has not been, save the model, write summary, pictures and card, and push if asked.

    A run that was told to stop (`StopOnSignal`) is not finished: nothing is done.

    Raises:
        ValueError: `start_run` was not called before the training. The model is saved.
    """
    if any(isinstance(each, StopOnSignal) and each.was_stopped for each in trainer.callback_handler.callbacks):
        logger.warning("finish_run: the run was told to stop, and goes on from its checkpoint; it has no summary yet")
        return
    folder = Path(str(trainer.args.output_dir))
    trainer.wait_for_pushes()
    trainer.save_model(str(folder), _internal_call=True)  # else it pushes, before there are pictures and a card
    is_main, step = trainer.is_world_process_zero(), trainer.state.global_step
    evaluated = is_main and read_run(folder).evaluation_at(step) is not None
    if not gather_object([evaluated])[0]:
        trainer.evaluate()
    if is_main:
        _write_result(folder, _step_of_kept_weights(trainer))
    if trainer.args.push_to_hub:
        trainer.push_to_hub()


def _step_of_kept_weights(trainer: AdaptiveGRPOTrainer) -> int | None:
    """The step of the best model, where its weights took the place of the last ones: it was saved, and is there."""
    best = trainer.state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
    return step_of(best) if best and Path(best).is_dir() else None


def _write_result(folder: Path, best_step: int | None) -> None:
    """Summary, pictures and model card, and what a person wants to know of them."""
    from tinyzero_trl.runs.report import write_pictures  # with matplotlib, which no rank needs before

    run = read_run(folder)
    summary = summarise(run, best_step)
    RunRecords(folder).write_summary(summary)
    plots = write_pictures(folder) if run.judged_evals else "none, because no answer was judged"
    write_model_card(folder)
    asked = answers_of(run.judged_evals[-1]) if run.judged_evals else "none of them judged"
    print(
        f"\nHeld-out accuracy, {asked} at full length:\n"
        f"  before  {_percent(summary['accuracy_before'])}\n"
        f"  after   {_percent(summary['accuracy_after'])}\n"
        f"Rollout tokens: {summary['rollout_tokens']:,}   training time: {summary['seconds']:.0f} s\n"
        f"Pictures: {plots}",
        flush=True,
    )


def summarise(run: Run, best_step: int | None = None) -> dict[str, Any]:
    """The result of a finished run: accuracy before and after with 95 % intervals, tokens and seconds spent.

    `problems` held-out problems have `answers` answers that were judged. `best_step` is the step whose weights the run
    keeps, if they are not those of its end. An accuracy is None where nothing was judged.

    Raises:
        ValueError: the run has no evaluation.
    """
    if not run.evals:
        raise ValueError(f"{run.path} holds no evaluation; train it with eval_strategy: steps")
    first, last = run.evals[0], run.evals[-1]
    kept = run.evaluation_at(best_step) or last
    before = first if first["step"] == 0 else None
    return {
        "recipe": run.config.get("recipe"),
        "seed": run.config["seed"],
        "window_strategy": run.config["window_strategy"],
        "steps": last["step"],
        **({} if kept is last else {"best_step": best_step}),
        "problems": int(last.get("eval/problems", last.get("eval/n", 0))),
        "answers": int(last.get("eval/n", 0)),
        "accuracy_before": _accuracy(before),
        "accuracy_after": _accuracy(kept),
        "rollout_tokens": last["tokens"],
        "seconds": last["time/elapsed_s"],
    }


def _accuracy(line: dict[str, Any] | None) -> dict[str, float] | None:
    """None where nothing was evaluated, or nothing was judged."""
    if line is None or "eval/acc" not in line:
        return None
    return {"mean": line["eval/acc"], "low": line["eval/acc_low"], "high": line["eval/acc_high"]}


def _percent(accuracy: dict[str, float] | None) -> str:
    if accuracy is None:
        return "not measured"
    return f"{accuracy['mean']:6.1%}   (95 % interval {accuracy['low']:.1%} to {accuracy['high']:.1%})"
