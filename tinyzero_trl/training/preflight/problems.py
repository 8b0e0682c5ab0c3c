"""Whether the problems suffice for a rollout, and the model's positions for prompt and completion."""

import inspect
import re
from collections.abc import Sequence
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig

from tinyzero_trl.generation.prompts import encode_prompts
from tinyzero_trl.messages import shortened
from tinyzero_trl.models.loading import check_room, positions_of
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.trl_internals import tokenizer_of
from tinyzero_trl.windows import WindowConfig
from tinyzero_trl.windows.config import label_column_of

logger = get_logger(__name__)

LABEL_COLUMN = "window_label_column"
_SOME_PROMPTS = 64  # as many are made into tokens, the longest in characters
_AT_ONCE = 1000  # prompts that are read of a data set, which may be larger than the memory


def check_problems(problems: Sequence[Any], training: AdaptiveGRPOConfig, *, field: str = "dataset") -> None:
    """One generation batch needs as many different problems as it has groups; an epoch with fewer has no step.

    Raises:
        ValueError: there are fewer.
    """
    rows, group = training.generation_batch_size, training.num_generations
    assert rows is not None and group is not None, "TRL sets them"
    if len(problems) < rows // group:
        raise ValueError(
            f"{field}: {len(problems)} problems are fewer than the {rows // group} groups of a rollout "
            f"(generation_batch_size {rows} / num_generations {group}); give more problems, or lower "
            "per_device_train_batch_size or steps_per_generation"
        )


def check_label_column(columns: Sequence[str] | None, window: WindowConfig, training: GRPOConfig) -> None:
    """A window policy that tells prompts apart by a column finds it in the training data.

    Args:
        columns: names of the columns; None where they are not known, as in some streams.
        window: of the policy.
        training: the configuration of the trainer, which has the field, unless a controller brings the policy.

    Raises:
        ValueError: there is no such column.
    """
    column = label_column_of(window)
    if column and columns is not None and column not in columns:
        raise ValueError(
            f"{_label_field(training)}: {column!r} is not a column of the training data; name one of "
            f"{', '.join(columns)}, or leave it out"
        )


def warn_of_equal_labels(train: Any, window: WindowConfig, training: GRPOConfig) -> None:
    """Say where the column that tells prompts apart, if it is there, holds the same in all rows.

    Streams and data sets with a transform are not looked into.

    Args:
        train: the training data.
        window: of the policy.
        training: as for `check_label_column`.
    """
    column = label_column_of(window)
    if not column or not isinstance(train, Dataset) or train.format["type"] == "custom":
        return
    if column not in train.column_names or not len(train):
        return
    labels = train.with_format(None)[column]
    label = labels[0]
    for first in range(0, len(train), _AT_ONCE):
        if any(each != label and (each or label) for each in labels[first : first + _AT_ONCE]):
            return
    said = shortened(label) if label else "empty"
    logger.warning(
        f"{_label_field(training)}: {column!r} is {said} in all training examples, so that no prompt can be told from "
        "another; name another column, or leave it out"
    )


def _label_field(training: GRPOConfig) -> str:
    """The name of the field in a recipe, or in the configuration of a controller."""
    return LABEL_COLUMN if isinstance(training, AdaptiveGRPOConfig) else "label_column"


def check_prompts(
    prompts: Sequence[Any], tokenizer: PreTrainedTokenizerBase, model_config: Any, training: AdaptiveGRPOConfig
) -> None:
    """The model's positions, and vLLM's, must hold the longest prompt and a completion of full length.

    Args:
        prompts: texts, or conversations of messages with a text each.
        tokenizer: of the model.
        model_config: knows the model's positions.
        training: knows the length of completions, and vLLM's limit.

    Raises:
        ValueError: prompts that the tokenizer has no template for, or too little room.
    """
    assert training.max_completion_length is not None, "AdaptiveGRPOConfig checks it"
    longest = _longest(prompts, tokenizer, training)
    check_room(positions_of(model_config), longest, training.max_completion_length)
    room = training.vllm_max_model_length if training.use_vllm else None
    if room is not None and longest + training.max_completion_length > room:
        raise ValueError(
            f"vllm_max_model_length: {room} does not hold a prompt of {longest} tokens and a completion of "
            f"{training.max_completion_length}; set it to {longest + training.max_completion_length} or more"
        )


def check_chat_template_kwargs(given: dict[str, Any] | None, prompts: Sequence[Any], tokenizer: Any) -> None:
    """Each name must be read: by the chat template, or by the function that renders it.

    Raises:
        ValueError: the prompts are plain text, or nothing reads a name.
    """
    if not given:
        return
    if any(isinstance(prompt, str) for prompt in prompts[:1]):
        raise ValueError(
            f"chat_template_kwargs: {shortened(given)} has no effect on prompts of plain text; remove it, or set "
            "prompt_template: chat"
        )
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else str(tokenizer.chat_template)
    known = inspect.signature(tokenizer.apply_chat_template).parameters
    for name in given:
        if name not in known and not re.search(rf"\b{re.escape(name)}\b", template):
            raise ValueError(
                f"chat_template_kwargs: {name!r} has no effect, the model's chat template does not read it; remove it, "
                "or correct its name"
            )


def check_datasets(trainer: Any, train_dataset: Any) -> None:
    """Every data set has prompts, unless an environment owns them; what recipes check of their problems besides.

    Args:
        trainer: a `GRPOTrainer` whose `__init__` has run.
        train_dataset: as it was given.

    Raises:
        ValueError: no column `prompt`, prompts that TRL cannot read, a column whose name is taken, or what
            `check_train_dataset` refuses.
    """
    held_out = trainer.eval_dataset
    sets = held_out if isinstance(held_out, dict) else {"": held_out}
    named = {f"eval_dataset[{name!r}]" if name else "eval_dataset": each for name, each in sets.items()}
    for field, each in {"train_dataset": train_dataset, **named}.items():
        if (columns := getattr(each, "column_names", None)) is None:  # as in some streams, too
            continue
        if trainer.environment_factories is None and "prompt" not in columns:
            raise ValueError(
                f"{field}: there is no column 'prompt' among {', '.join(columns) or 'none'}; rename the one that "
                "holds the prompts"
            )
        _check_names(field, columns, trainer)
        if trainer.rollout_func is None:
            _check_form(field, each)
    check_train_dataset(train_dataset, tokenizer_of(trainer), trainer.model.config, trainer.args)
    warn_of_equal_labels(train_dataset, trainer.args.window_config(), trainer.args)


def _check_names(field: str, columns: Sequence[str], trainer: Any) -> None:
    """Reward functions get the columns beside the prompts and completions of a rollout, all by name."""
    if trainer.args.remove_unused_columns or all(isinstance(each, nn.Module) for each in trainer.reward_funcs):
        return
    for name in filter(columns.__contains__, ("prompts", "completions")):
        raise ValueError(
            f"{field}: a column has the name {name!r}, under which reward functions get the {name} of a rollout; "
            "rename the column, or remove it"
        )


def _check_form(field: str, dataset: Any) -> None:
    """The first prompt is text or a list of messages; the others of a data set have the same type."""
    if not isinstance(dataset, Dataset) or dataset.format["type"] == "custom" or "prompt" not in dataset.column_names:
        return
    for row in dataset.with_format(None).select_columns("prompt").take(min(1, len(dataset))):
        prompt = row["prompt"]
        is_list_of_messages = isinstance(prompt, list) and all(isinstance(each, dict) for each in prompt)
        if prompt is not None and not isinstance(prompt, str) and not is_list_of_messages:
            raise ValueError(
                f"{field}: a prompt is {shortened(prompt)}; give text, or a list of messages with role and content"
            )


def check_train_dataset(dataset: Any, tokenizer: Any, model_config: Any, training: AdaptiveGRPOConfig) -> None:
    """What recipes check of their problems, for the data set of any trainer.

    Streams, data sets with a transform, conversations and prompts with images are not looked into. Completions that
    would go beyond the model's positions are a warning here: TRL samples them, and a window may end them before.

    Raises:
        ValueError: too few examples for a rollout, an empty prompt, or one that leaves no room for a completion.
    """
    if not isinstance(dataset, Dataset):
        return
    check_problems(dataset, training, field="train_dataset")
    if "prompt" not in dataset.column_names or dataset.format["type"] == "custom":
        return
    are_texts, some = True, list[Any]()
    for first in range(0, len(dataset), _AT_ONCE):
        prompts = dataset["prompt"][first : first + _AT_ONCE]
        empty = next((row for row, prompt in enumerate(prompts, first) if prompt in ("", [], None)), None)
        if empty is not None:
            raise ValueError(f"train_dataset: the prompt of row {empty} is empty; write one, or remove the row")
        are_texts = are_texts and all(isinstance(prompt, str) for prompt in prompts)
        some = _with_most_characters([*some, *prompts]) if are_texts else []
    if not are_texts:
        return
    longest = _longest(some, tokenizer, training)
    check_room(positions_of(model_config), longest, 1)
    try:
        check_room(positions_of(model_config), longest, training.max_completion_length or 1)
    except ValueError as error:
        logger.warning(str(error))


def _longest(prompts: Sequence[Any], tokenizer: Any, training: AdaptiveGRPOConfig) -> int:
    """Tokens of the longest prompt, among those with the most characters, as rollouts make them."""
    kwargs = training.chat_template_kwargs
    assert not isinstance(kwargs, str), "TRL reads it"
    return max(map(len, encode_prompts(tokenizer, _with_most_characters(prompts), kwargs)))


def _with_most_characters(prompts: Sequence[Any]) -> list[Any]:
    return sorted(prompts, key=_characters)[-_SOME_PROMPTS:]


def _characters(prompt: Any) -> int:
    return len(prompt) if isinstance(prompt, str) else sum(len(message["content"]) for message in prompt)
