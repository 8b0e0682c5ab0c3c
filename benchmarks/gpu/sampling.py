"""Tokens a second of one engine on the untrained model: every row runs to the limit."""

import argparse
from typing import Any

import torch
from rollout_engines import length_tokens, transformers_engines, vllm_engine
from transformers import Qwen2ForCausalLM

from gpu.part import Size, SkippedError, device, now, run_part, untrained
from tinyzero_trl.generation.prompts import encode_prompts
from tinyzero_trl.tasks import countdown

ENGINES = {
    "generate": "generate",
    "ours": "finished rows leave",
    "continuous": "continuous batching",
    "vllm": "vllm",
}
"""Names on the command line, and those of `rollout_engines.py`."""


def measure(args: argparse.Namespace, size: Size) -> dict[str, Any]:
    """Seconds and tokens of one rollout, after a shorter one to warm up."""
    config, tokenizer, folder = untrained(size)
    torch.manual_seed(0)
    with device():
        model: Any = Qwen2ForCausalLM(config)
    (model.to(torch.bfloat16) if device().type == "cuda" else model).save_pretrained(folder)
    del model
    if args.engine == "vllm" and device().type != "cuda":
        raise SkippedError("vLLM on a CPU is measured by rollout_engines.py, not here")
    started, is_vllm = now(), args.engine == "vllm"
    found = vllm_engine(folder, args.limit) if is_vllm else transformers_engines(folder, tokenizer, args.limit)
    if not found:
        raise SkippedError("vLLM is not installed")
    start_s = now() - started
    sample = found[ENGINES[args.engine]]
    prompts = [countdown.render_prompt(problem, "base") for problem in countdown.generate(args.rows, seed=0)]
    prompt_ids = encode_prompts(tokenizer, prompts)
    sample(prompt_ids[:4])
    started = now()
    completions = sample(prompt_ids)
    seconds = now() - started
    tokens = sum(length_tokens(ids, tokenizer.eos_token_id) for ids in completions)
    return {"start_s": start_s, "seconds": seconds, "tokens": tokens, "tokens_per_s": tokens / seconds}


if __name__ == "__main__":
    run_part(
        __doc__,
        measure,
        engine={"choices": ENGINES, "required": True},
        rows={"type": int, "required": True},
        limit={"type": int, "required": True},
    )
