"""vLLM in this process as an engine; imported when it is asked for, and never otherwise."""

import os
from collections.abc import Sequence
from typing import Any

import torch

from tinyzero_trl.generation.engine import Engine, EngineSetup, SampledBatch, Sampling
from tinyzero_trl.messages import page
from tinyzero_trl.models.adapters import base_of_adapter
from tinyzero_trl.models.loading import dtype_name

_ROWS_PER_CALL = 1024
"""vLLM refills its batch itself, so many rows keep it busy; but a call is what an interruption loses."""


class VllmEngine(Engine):
    """vLLM on the weights of a folder or Hub id; every request carries its own seed."""

    def __init__(self, setup: EngineSetup) -> None:
        super().__init__(setup)
        if base_of_adapter(setup.model_path):
            raise ValueError(
                f"model: {setup.model_path!r} is an adapter, and vLLM takes whole models here; merge it into its base "
                f"({page('scaling.md')}), or use --engine transformers"
            )
        # one process schedules requests in the same order every time, vLLM's condition for reproducibility
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm import LLM

        # of the machine's memory on a CPU, which is never as free as a GPU's
        memory: dict[str, Any] = {} if torch.cuda.is_available() else {"gpu_memory_utilization": 0.4}
        self.rows_per_call = _ROWS_PER_CALL
        self._llm = LLM(
            model=setup.model_path,
            load_format="safetensors",
            dtype=dtype_name(),
            max_model_len=setup.max_sequence_length,
            enforce_eager=not torch.cuda.is_available(),
            disable_log_stats=True,
            **memory,
        )

    def start(self, prompt_ids: Sequence[list[int]], sampling: Sampling, limit: int) -> SampledBatch:
        """See `Engine`."""
        seeds = sampling.seeds or [None] * len(prompt_ids)
        prompts: Any = [{"prompt_token_ids": ids} for ids in prompt_ids]
        requests = [_request(sampling, seed, limit) for seed in seeds]
        outputs = [request.outputs[0] for request in self._llm.generate(prompts, requests, use_tqdm=False)]
        return SampledBatch(
            [list(ids) for ids in prompt_ids],
            [list(output.token_ids) for output in outputs],
            [output.finish_reason == "stop" for output in outputs],
            limit,
            sampling,
        )


def _request(sampling: Sampling, seed: int | None, limit: int) -> Any:
    """The `SamplingParams` of vLLM."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        max_tokens=limit,
        seed=seed,
        stop_token_ids=list(sampling.end_token_ids),
        stop=list(sampling.stop_strings),
        include_stop_str_in_output=True,
        detokenize=bool(sampling.stop_strings),
    )
