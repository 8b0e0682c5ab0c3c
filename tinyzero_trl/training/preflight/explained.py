"""What TRL and Transformers refuse is told with field, value and remedy, in one line."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from tinyzero_trl.messages import text_of


@contextmanager
def explained_by_field(config: Any) -> Iterator[None]:
    """Turn a `ValueError` of the libraries into one of one line, with field, value and remedy.

    Args:
        config: the configuration that the body completes, as far as it has come.

    Raises:
        ValueError: whatever value the body refuses.
    """
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        raise ValueError(_explained(config, text_of(error))) from error


def check_evaluation_batch(config: Any) -> None:
    """Completions of an evaluation batch are whole groups. TRL looks only where `eval_strategy` asks for evaluations.

    Raises:
        ValueError: they are not.
    """
    if refusal := _no_whole_groups(config):
        raise ValueError(refusal)


def _no_whole_groups(config: Any) -> str | None:
    """Why the completions of an evaluation batch are no whole groups; None if they are."""
    name = "num_generations_eval" if config.num_generations_eval else "num_generations"
    rows, group = config.per_device_eval_batch_size * config.world_size, getattr(config, name)
    if rows % group == 0:
        return None
    return (
        f"{name}: {group} does not divide the {rows} completions of an evaluation batch; give a divisor such as "
        f"{_divisor(rows, group)}, or change per_device_eval_batch_size"
    )


def _explained(config: Any, reason: str) -> str:
    if reason.startswith("generation_batch_size") and "num_generations" in reason:
        rows, group = config.generation_batch_size, config.num_generations
        return (
            f"num_generations: {group} does not divide the {rows} completions of a rollout (generation_batch_size); "
            f"give a divisor such as {_divisor(rows, group)}, or change per_device_train_batch_size"
        )
    if reason.startswith("The global eval batch size"):
        return _no_whole_groups(config) or reason
    if reason.startswith("generation_batch_size"):
        per_step = config.per_device_train_batch_size * config.world_size
        return (
            f"generation_batch_size: {config.generation_batch_size} is not a multiple of the {per_step} completions of "
            "a micro-batch over all processes (per_device_train_batch_size); give a multiple"
        )
    names = {each.name for each in fields(config) if re.search(r"[_\d]", each.name)}  # others are English words too
    for word in re.findall(r"\w+", reason):
        if word in names:
            return f"{word}: {getattr(config, word)!r} is refused ({reason.rstrip('.')}); change it"
    return reason


def _divisor(rows: int, at_most: int) -> int:
    """The largest divisor of `rows` up to `at_most`, but no less than 2 where there is one."""
    return next((each for each in range(min(rows, at_most), 1, -1) if rows % each == 0), math.gcd(rows, at_most))
