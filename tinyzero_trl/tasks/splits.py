"""The training and the held-out examples of a run, which share none."""

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tinyzero_trl.tasks.config import GENERATE, TaskConfig
from tinyzero_trl.tasks.datasets import read_examples, train_test_examples
from tinyzero_trl.tasks.sources import has_splits
from tinyzero_trl.tasks.task import Example, Task

_HELD_OUT_SHARE = 10  # of a data set without splits, one in so many examples


@dataclass(frozen=True)
class Splits:
    """Training and held-out examples, and one line for people where something was decided for them."""

    train: Sequence[Example]
    held_out: Sequence[Example]
    note: str | None = None


def load_splits(config: TaskConfig) -> Splits:
    """The examples of a run, generated or read.

    A file, or a data set that was saved without splits, gives a part of its examples as held-out ones: `test_size` of
    them, but at most a tenth. `problem_seed` decides which.

    Raises:
        ValueError: examples that cannot be generated or read, or held-out examples that occur in training, unless
            `allow_overlap` is set.
    """
    if config.dataset == GENERATE:
        return _generated(config, config.train_size)
    splits = _read(config)
    if config.train_size == TaskConfig.train_size:
        return splits
    told = f"train_size: {config.train_size} has no effect on a data set, of which all {len(splits.train)} examples "
    told += "are trained on"
    return replace(splits, note="; ".join(filter(None, (splits.note, told))))


def _read(config: TaskConfig) -> Splits:
    task = config.make_task()
    if not has_splits(config.dataset):
        return _divided(read_examples(config.dataset, task=task), task, config)
    train, held_out = (read_examples(config.dataset, task=task, split=split) for split in ("train", "test"))
    return Splits(train, held_out, _overlap(train, held_out, task, config))


def generated_held_out(config: TaskConfig) -> Sequence[Example]:
    """The held-out examples of a run whose examples are generated; they do not depend on `train_size`."""
    return _generated(config, train_size=1).held_out


def _generated(config: TaskConfig, train_size: int) -> Splits:
    train, held_out = train_test_examples(
        config.make_task(), train_size=train_size, test_size=config.test_size, seed=config.problem_seed
    )
    return Splits(train, held_out)


def keys(task: Task, examples: Sequence[Example]) -> set[Hashable]:
    """What makes each of the examples the same as another."""
    return {task.key(example) for example in examples}


def _divided(examples: Sequence[dict[str, Any]], task: Task, config: TaskConfig) -> Splits:
    """Examples without splits in two; what is held out does not stay in training as a copy."""
    count = min(config.test_size, len(examples) // _HELD_OUT_SHARE)
    if not count:
        raise ValueError(
            f"dataset: {config.dataset!r} holds {len(examples)} examples and no splits; give {_HELD_OUT_SHARE} or more "
            "of them, or a folder with a file for train and one for test"
        )
    chosen = {*random.Random(config.problem_seed).sample(range(len(examples)), count)}
    held_out = [example for index, example in enumerate(examples) if index in chosen]
    known = keys(task, held_out)
    train = [example for example in examples if task.key(example) not in known]
    if not train:
        raise ValueError(
            f"dataset: {config.dataset!r} holds {len(examples)} examples, all of them copies of the held-out ones; "
            "give different ones"
        )
    note = f"dataset: {config.dataset!r} has no splits; {count} of its {len(examples)} examples are held out"
    if copies := len(examples) - count - len(train):
        note += f", and {copies} that are copies of those are left out of training"
    return Splits(train, held_out, note)


def _overlap(train: Sequence[Example], held_out: Sequence[Example], task: Task, config: TaskConfig) -> str | None:
    known = keys(task, train)
    shared = sum(task.key(example) in known for example in held_out)
    if not shared:
        return None
    found = f"dataset: {shared} of the {len(held_out)} held-out examples are training examples too"
    if not config.allow_overlap:
        raise ValueError(f"{found}; remove them from one of the two, or give --allow_overlap true")
    return found
