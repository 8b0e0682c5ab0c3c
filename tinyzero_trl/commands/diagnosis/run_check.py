"""The checks, run in an interpreter of their own: each returns what it checked, or raises."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

from tinyzero_trl.commands.diagnosis import MARK


class CheckFailedError(Exception):
    """It does not work: why, and what fixes it if that is no matter of installing."""

    def __init__(self, why: str, fix: str | None = None) -> None:
        super().__init__(why)
        self.fix = fix


def _embedded_model() -> Any:
    from transformers import AutoModelForCausalLM

    from tinyzero_trl.models.loading import SAFE, default_device
    from tinyzero_trl.models.names import resolve_model
    from tinyzero_trl.models.toy import EMBEDDED

    model: Any = AutoModelForCausalLM.from_pretrained(resolve_model(EMBEDDED), **SAFE)
    return model.to(default_device())


def _transformers() -> str:
    import torch

    model = _embedded_model()
    prompt = torch.tensor([[2, 3, 4]], device=model.device)
    output = model.generate(prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    if output.shape != (1, 7):
        raise CheckFailedError(f"generate returned the shape {tuple(output.shape)}")
    return f"the embedded model generated on {model.device}"


def _continuous_batching() -> str:
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    model = _embedded_model().eval()
    answers = model.generate_batch(
        [[2, 3, 4], [2, 3]],
        generation_config=GenerationConfig(max_new_tokens=2, do_sample=False, eos_token_id=-1, pad_token_id=0),
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64, block_size=32),
        progress_bar=False,
    )
    lengths = [len(answer.generated_tokens) for answer in answers.values()]
    if lengths != [2, 2]:
        raise CheckFailedError(f"two prompts, two tokens each, gave answers of {lengths} tokens")
    return f"the embedded model generated on {model.device}"


def _vllm() -> str:
    from vllm import LLM  # noqa: F401, I001  (also loads the compiled operators)
    from vllm.platforms import current_platform
    from trl.import_utils import is_vllm_available

    if not is_vllm_available():
        raise CheckFailedError("it is imported, but TRL does not take this version")
    device = str(current_platform.device_type)
    if not device:
        raise CheckFailedError("it is imported, but finds no device that it was built for")
    return f"imported, TRL takes it, its device is {device}; no engine was started"


def _deepspeed() -> str:
    from deepspeed.accelerator import get_accelerator

    device = str(get_accelerator().device_name())
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if device == "cpu" and missing:
        why = f"it is imported, but {missing[0]}, with which it builds its operators, is not there"
        raise CheckFailedError(why, f"install {' and '.join(missing)}")
    return f"imported, its device is {device}; nothing was trained"


def _fsdp2() -> str:
    import torch
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    device = "cuda" if torch.cuda.is_available() else "cpu"
    backend = "nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    layer = torch.nn.Linear(4, 4, device=device)
    fully_shard(layer)
    layer(torch.ones(2, 4, device=device)).sum().backward()
    distributed.destroy_process_group()
    if layer.weight.grad is None:
        raise CheckFailedError("a sharded layer got no gradient")
    return f"a sharded layer was propagated on {device}"


def _flash_attn() -> str:
    import torch
    from flash_attn import flash_attn_func
    from transformers.utils import is_flash_attn_2_available

    if not torch.cuda.is_available():
        raise CheckFailedError("it needs a CUDA device", "nothing; attention is sdpa here")
    heads = torch.ones(1, 8, 2, 64, device="cuda", dtype=torch.bfloat16)  # (B, positions, heads, head size)
    if not torch.isfinite(flash_attn_func(heads, heads, heads, causal=True)).all():
        raise CheckFailedError("the attention that it computed is not finite")
    if not is_flash_attn_2_available():
        raise CheckFailedError("it runs, but Transformers does not take this version")
    return "attention was computed in bfloat16 on cuda"


def _peft() -> str:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(_embedded_model(), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    trained, total = model.num_parameters(only_trainable=True), model.num_parameters()
    if not 0 < trained < total:
        raise CheckFailedError(f"an adapter trains {trained} of {total} weights")
    return f"an adapter of {trained:,} weights was put on the embedded model"


def _wandb() -> str:
    import wandb

    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "disabled"):
        return f"imported; WANDB_MODE is {mode}"
    if not wandb.api.api_key:
        raise CheckFailedError("it is imported, but nobody is logged in", "wandb login, or WANDB_MODE=offline")
    return "imported, a key is there; the server was not asked"


def _trackio() -> str:
    from trackio import finish, init, log  # noqa: F401  (what Transformers calls)

    return "imported; nothing was logged"


def _gguf() -> str:
    from gguf import GGUFReader  # noqa: F401  (what Transformers reads a file with)
    from transformers.utils import is_gguf_available

    if not is_gguf_available():
        raise CheckFailedError("it is imported, but Transformers does not take this version")
    return "imported, Transformers takes it; no file was read"


def _math_verify() -> str:
    from tinyzero_trl.tasks.matching import MATH, match

    if match(r"\boxed{\frac{1}{2}}", "0.5", MATH).reward != 1 or match(r"\boxed{0.25}", "0.5", MATH).reward != 0:
        raise CheckFailedError("it did not tell a right answer from a wrong one")
    return "a right answer and a wrong one were told apart"


def _reasoning_gym() -> str:
    from reasoning_gym import create_dataset

    made = create_dataset("spell_backward", size=1, seed=0)
    if made.score_answer(made[0]["answer"], made[0]) != 1:
        raise CheckFailedError("an example was made, but its answer was not scored as right")
    return "an example was made, and its answer scored"


FUNCTIONS: dict[str, Callable[[], str]] = {
    "transformers": _transformers,
    "continuous batching": _continuous_batching,
    "vLLM": _vllm,
    "DeepSpeed": _deepspeed,
    "FSDP2": _fsdp2,
    "flash-attn": _flash_attn,
    "peft": _peft,
    "W&B": _wandb,
    "trackio": _trackio,
    "gguf": _gguf,
    "math-verify": _math_verify,
    "reasoning-gym": _reasoning_gym,
}


def main(name: str) -> int:
    """Run the check `name` and print one marked line of JSON; the status is 0 if it works."""
    fix, status = None, 1
    try:
        detail, status = FUNCTIONS[name](), 0
    except CheckFailedError as error:
        detail, fix = str(error), error.fix
    except (Exception, SystemExit) as error:
        detail = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    print(f"\n{MARK}{json.dumps({'detail': detail, 'fix': fix})}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
