"""Whether the problems suffice for a rollout, and the model's positions for prompt and completion."""

from collections.abc import Sequence
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tinyzero_trl.generation.prompts import encode_prompts
from tinyzero_trl.models.loading import check_room
from tinyzero_trl.training.config import AdaptiveGRPOConfig

logger = get_logger(__name__)

_SOME_PROMPTS = 64  # a template's prompts are about equally long


def check_problems(problems: Sequence[Any], training: AdaptiveGRPOConfig) -> None:
    """One generation batch needs as many different problems as it has groups; an epoch with fewer has no step.

    Raises:
        ValueError: there are fewer.
    """
    rows, group = training.generation_batch_size, training.num_generations
    assert rows is not None and group is not None, "TRL sets them"
    if len(problems) < rows // group:
        raise ValueError(
            f"dataset: {len(problems)} problems are fewer than the {rows // group} groups of a rollout "
            f"(generation_batch_size {rows} / num_generations {group}); give more problems, or lower "
            "per_device_train_batch_size or steps_per_generation"
        )


def check_prompts(
    train: Dataset, tokenizer: PreTrainedTokenizerBase, model_config: Any, training: AdaptiveGRPOConfig
) -> None:
    """The model's positions must hold the longest of some prompts and a completion of full length.

    Raises:
        ValueError: prompts that the tokenizer has no template for, or too little room.
    """
    prompts = encode_prompts(tokenizer, train[:_SOME_PROMPTS]["prompt"])
    assert training.max_completion_length is not None, "AdaptiveGRPOConfig checks it"
    check_room(model_config, max(map(len, prompts)), training.max_completion_length)


def check_train_dataset(dataset: Any, tokenizer: Any, model_config: Any, training: AdaptiveGRPOConfig) -> None:
    """What recipes check of their problems, for the data set of any trainer.

    Streams, conversations and prompts with images are not looked into. Completions that would go beyond the model's
    positions are a warning here: TRL samples them, and a window may end them before.

    Raises:
        ValueError: too few examples for a rollout, or a prompt that leaves no room for a completion.
    """
    if not isinstance(dataset, Dataset):
        return
    check_problems(dataset, training)
    prompts = dataset[:_SOME_PROMPTS].get("prompt", [None])
    if not all(isinstance(prompt, str) for prompt in prompts):
        return
    longest = max(map(len, encode_prompts(tokenizer, prompts)))
    check_room(model_config, longest, 1)
    try:
        check_room(model_config, longest, training.max_completion_length or 1)
    except ValueError as error:
        logger.warning(str(error))
