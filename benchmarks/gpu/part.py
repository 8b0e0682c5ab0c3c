"""What every part of the check shares: its command line, its sizes, its result, and the device."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen2Config

from tinyzero_trl.models.toy.tokenizer import build_tokenizer
from tinyzero_trl.tasks import countdown


class SkippedError(Exception):
    """The part cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Size:
    """How much is measured. `full` is for one GPU with 40 GiB or more, `tiny` proves on a CPU that everything runs.

    Attributes:
        model: sizes of the untrained model, fields of `Qwen2Config`. Those of `full` are Qwen2.5-0.5B's.
        rows: completions of an optimizer step.
        micro_rows: rows of one of stock TRL's passes.
        length: most tokens of a completion.
        budget: `max_tokens_per_micro_batch` of ours.
        steps: measured optimizer steps, after one to warm up.
        train: fields of a run of `countdown_tiny`.
    """

    model: dict[str, Any]
    rows: int
    micro_rows: int
    length: int
    budget: int
    steps: int
    train: dict[str, Any]


_HALF_BILLION: dict[str, Any] = {
    **{"vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24},
    **{"num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 32_768},
}
_SMALL: dict[str, Any] = {
    **{"vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
}
_SHORT_RUN = {"max_steps": 2, "train_size": 64, "test_size": 16, "eval_size": 8, "max_completion_length": 48}
_SHORT_BATCH = {"window_initial": 40, "window_min": 8, "per_device_train_batch_size": 16, "eval_steps": 2}
_LONG_RUN = {"window_initial": 256, "window_min": 32, "max_steps": 8, "eval_steps": 8, "eval_size": 256}
SIZES = {
    "full": Size(_HALF_BILLION, 256, 16, 1024, 18_432, 2, _LONG_RUN),
    "tiny": Size(_SMALL, 16, 8, 12, 128, 1, {**_SHORT_RUN, **_SHORT_BATCH}),
}


def run_part(describe: str, measure: Callable[[argparse.Namespace, Size], dict[str, Any]], **options: Any) -> None:
    """The program of a part: parse, measure, and write the result, or the reason for which there is none.

    Args:
        describe: what is measured.
        measure: gives the figures, or raises `SkippedError`.
        options: keyword arguments of further options, by their names.
    """
    parser = argparse.ArgumentParser(description=describe)
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    for name, settings in options.items():
        parser.add_argument(f"--{name}", **settings)
    args = parser.parse_args()
    try:
        result = measure(args, SIZES[args.size])
    except SkippedError as reason:
        result = {"skipped": str(reason)}
    args.out.write_text(json.dumps(result))


def untrained(size: Size) -> tuple[Qwen2Config, Any, str]:
    """Configuration and tokenizer of the untrained model, and a new folder that holds both."""
    folder, tokenizer = tempfile.mkdtemp(prefix="gpu-check-"), build_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen2Config(**size.model, **ends, tie_word_embeddings=True)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return config, AutoTokenizer.from_pretrained(folder, padding_side="left"), folder


def prompts_of_countdown(count: int) -> list[str]:
    """Different prompts, the same on every call."""
    return [str(countdown.render_prompt(problem, "base")) for problem in countdown.generate(count, seed=0)]


def now() -> float:
    """Seconds, once the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
