"""PyTorch's kernel for rows that lie end to end against its reference, forward and backward, in half precision."""

import argparse
from typing import Any

import torch

from gpu.part import Size, SkippedError, run_part
from tinyzero_trl.models.loading import default_device
from tinyzero_trl.models.varlen import kernel_fault

SHAPES = {
    "Qwen2.5-0.5B": (14, 2, 64),
    "Qwen2.5-1.5B": (12, 2, 128),
    "Qwen2.5-3B": (16, 2, 128),
    "embedded": (4, 2, 32),
}
"""Query heads, key heads and width of a head of each model."""


def measure(args: argparse.Namespace, size: Size) -> dict[str, Any]:
    """What is wrong for each model; None where nothing is."""
    if default_device().type != "cuda":
        raise SkippedError("the kernel needs a CUDA device")
    return {name: kernel_fault(*shape, torch.bfloat16, default_device()) for name, shape in SHAPES.items()}


if __name__ == "__main__":
    run_part(__doc__, measure)
