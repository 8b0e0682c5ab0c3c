"""A recipe read as a run on other machines reads it: for a plan, and before a grid starts its first run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from trl import ModelConfig

from tinyzero_trl.replacing import replaced
from tinyzero_trl.tasks.config import TaskConfig
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.recipe.parser import parse_recipe


@contextmanager
def recipe_for(
    arguments: Sequence[str], *, processes: int, device: str = "cuda"
) -> Iterator[tuple[TaskConfig, AdaptiveGRPOConfig, ModelConfig]]:
    """Read a recipe as a run on other machines does; in the `with` block checks see those machines as well.

    This process takes no device for it. What Transformers refuses because this machine has no such GPU is not refused.

    Args:
        arguments: `--config FILE` and fields, as `parse_recipe` takes them.
        processes: of the run, over all machines.
        device: the type of the devices it is trained on.

    Raises:
        ValueError: as `parse_recipe` does.
    """
    with (
        replaced(AdaptiveGRPOConfig, "world_size", property(lambda _: processes)),
        replaced(AdaptiveGRPOConfig, "device", property(lambda _: torch.device(device))),
    ):
        yield parse_recipe([*arguments, "--use_cpu", "true"])  # else half precision is refused without a GPU
