"""How often a decoding step makes the host wait for the device, counted by PyTorch: `generate` and ours."""

import argparse
import warnings
from typing import Any

import torch
from rollout_engines import Engine, transformers_engines
from transformers import AutoTokenizer

from gpu.part import Size, SkippedError, prompts_of_countdown, run_part
from tinyzero_trl.generation.prompts import encode_prompts
from tinyzero_trl.models.loading import default_device
from tinyzero_trl.models.names import resolve_model

ROWS, LIMITS = 16, (8, 24)
"""Rows that end between the two limits cost ours a few waits each."""


def measure(args: argparse.Namespace, size: Size) -> dict[str, Any]:
    """Waits for each token between two limits, with the embedded model."""
    if default_device().type != "cuda":
        raise SkippedError(
            "PyTorch counts them on a CUDA device; on a CPU tests/integration/test_synchronisations.py does"
        )
    path = resolve_model("embedded")
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    engines = transformers_engines(path, tokenizer)
    prompt_ids = encode_prompts(tokenizer, prompts_of_countdown(ROWS))
    names = {"generate": "generate", "ours": "finished rows leave"}
    return {f"{name}_per_token": per_token(engines[engine], prompt_ids) for name, engine in names.items()}


def per_token(sample: Engine, prompt_ids: list[list[int]]) -> float:
    """Waits for each token, without those of a call's beginning and end."""
    few, many = (waits(sample, prompt_ids, limit) for limit in LIMITS)
    return (many - few) / (LIMITS[1] - LIMITS[0])


def waits(sample: Engine, prompt_ids: list[list[int]], limit: int) -> int:
    """Warnings by which PyTorch tells that an operation waits."""
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            sample(prompt_ids, limit)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(each.message) for each in told)


if __name__ == "__main__":
    run_part(__doc__, measure)
