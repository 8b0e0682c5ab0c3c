"""Who writes the completions of an evaluation: transformers' `generate`, or vLLM where it pays.

An engine is loaded from a folder or Hub id for a given room (longest prompt + longest completion) and turns
token ids and seeds into completions. vLLM is imported when it is asked for, and never otherwise.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import is_flash_attn_2_available

from tinyzero_trl.generation.sampling import Completion, as_completion, complete_tokens, end_token_ids
from tinyzero_trl.models.loading import SAFE, base_of_adapter, load, load_model_config, without_bars

_VLLM_ROWS_PER_CALL = 1024
"""vLLM refills its batch itself, so many rows keep it busy; but a call is what an interruption loses."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How completions are written. Lengths in tokens; `batch_size` rows side by side, which vLLM decides itself."""

    longest_prompt: int
    max_completion_length: int
    temperature: float
    batch_size: int


class Engine(Protocol):
    """Turns prompts into completions."""

    rows_per_call: int

    def complete(self, prompt_ids: Sequence[list[int]], seeds: Sequence[int]) -> list[Completion]:
        """One completion per prompt, prompt i sampled with `seeds[i]`."""


def default_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_dtype() -> torch.dtype:
    """bfloat16 on a CUDA device, float32 on the CPU."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def dtype_name() -> str:
    """`default_dtype()` as vLLM and people write it."""
    return str(default_dtype()).removeprefix("torch.")


def load_model(path: str) -> Any:
    """A causal language model on `default_device()` in `default_dtype()`, with FlashAttention 2 if it works.

    Raises:
        ValueError: if it cannot be loaded.
    """
    flash = is_flash_attn_2_available() and default_dtype() == torch.bfloat16
    # bars would be drawn wherever standard error goes; here they are for terminals
    with nullcontext() if sys.stderr.isatty() else without_bars():
        model = load(
            AutoModelForCausalLM.from_pretrained,
            path,
            **SAFE,
            dtype=default_dtype(),
            attn_implementation="flash_attention_2" if flash else None,
        )
    return model.to(default_device())


def load_engine(name: str, path: str, tokenizer: Any, decoding: Decoding) -> Engine:
    """Load a model into the engine of that name, as `choose_engine` gives it.

    Raises:
        ValueError: if the model cannot be loaded.
    """
    if name == "vllm":
        return VllmEngine(path, tokenizer, decoding)
    return TransformersEngine(path, tokenizer, decoding)


class TransformersEngine:
    """transformers' own `generate`, a batch per call."""

    def __init__(self, path: str, tokenizer: Any, decoding: Decoding) -> None:
        self.rows_per_call = decoding.batch_size
        self._model = load_model(path)
        self._tokenizer = tokenizer
        self._decoding = decoding

    def complete(self, prompt_ids: Sequence[list[int]], seeds: Sequence[int]) -> list[Completion]:
        """See `Engine`.

        Raises:
            ValueError: if the batch does not fit into the device's memory.
        """
        try:
            return complete_tokens(
                self._model,
                self._tokenizer,
                prompt_ids,
                seeds,
                max_completion_length=self._decoding.max_completion_length,
                temperature=self._decoding.temperature,
                batch_size=self.rows_per_call,
            )
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"batch_size: {self.rows_per_call} rows do not fit the device's memory; run the same command "
                "with a smaller --batch-size, it goes on where this one stopped"
            ) from error


class VllmEngine:
    """vLLM in this process; every request carries its own seed."""

    rows_per_call = _VLLM_ROWS_PER_CALL

    def __init__(self, path: str, tokenizer: Any, decoding: Decoding) -> None:
        if base_of_adapter(path):
            raise ValueError(
                f"model: {path!r} is an adapter, and vLLM takes whole models here; merge it into its base "
                "(docs/scaling.md), or use --engine transformers"
            )
        # one process schedules requests in the same order every time, vLLM's condition for reproducibility
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm import LLM

        # of the machine's memory on a CPU, which is never as free as a GPU's
        memory: dict[str, Any] = {} if torch.cuda.is_available() else {"gpu_memory_utilization": 0.4}
        self._llm = LLM(
            model=path,
            load_format="safetensors",
            dtype=dtype_name(),
            max_model_len=decoding.longest_prompt + decoding.max_completion_length,
            enforce_eager=not torch.cuda.is_available(),
            disable_log_stats=True,
            **memory,
        )
        self._tokenizer = tokenizer
        self._ends = end_token_ids(tokenizer, _generation_config(path))
        self._decoding = decoding

    def complete(self, prompt_ids: Sequence[list[int]], seeds: Sequence[int]) -> list[Completion]:
        """See `Engine`."""
        from vllm import SamplingParams

        longest = self._decoding.max_completion_length
        requests = [
            SamplingParams(
                temperature=self._decoding.temperature,
                max_tokens=longest,
                seed=seed,
                stop_token_ids=self._ends,
                detokenize=False,
            )
            for seed in seeds
        ]
        prompts: Any = [{"prompt_token_ids": ids} for ids in prompt_ids]
        outputs = self._llm.generate(prompts, requests, use_tqdm=False)
        return [as_completion(output.outputs[0].token_ids, self._ends, self._tokenizer, longest) for output in outputs]


def _generation_config(path: str) -> GenerationConfig:
    """What a loaded model has as `generation_config`: its own file's, or one made of the model's."""
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:
        return GenerationConfig.from_model_config(load_model_config(path))
