"""Tokens a second of one engine on the untrained model: practically every row runs to the limit."""

import argparse
from typing import Any

import torch
from rollout_engines import length_tokens, most_tokens, transformers_engines, vllm_engine
from transformers import Qwen2ForCausalLM

from gpu.part import Size, SkippedError, now, prompts_of_countdown, run_part, untrained
from tinyzero_trl.generation.prompts import encode_prompts
from tinyzero_trl.models.loading import default_device

ENGINES = {
    "generate": "generate",
    "ours": "finished rows leave",
    "continuous": "continuous batching",
    "vllm": "vllm",
}
"""Names on the command line, and those of `rollout_engines.py`."""

WARM_UP_TOKENS = 16
LEAST_SHARE = 0.5
"""Of the tokens that rows would have if all reached the limit: less means that an engine has given up."""


def measure(args: argparse.Namespace, size: Size) -> dict[str, Any]:
    """Seconds and tokens of one rollout, after a shorter one to warm up.

    Raises:
        RuntimeError: completions are missing; continuous batching logs its errors and returns what it has.
    """
    config, tokenizer, folder = untrained(size)
    torch.manual_seed(0)
    with default_device():
        model: Any = Qwen2ForCausalLM(config)
    (model.to(torch.bfloat16) if default_device().type == "cuda" else model).save_pretrained(folder)
    del model
    if args.engine == "vllm" and default_device().type != "cuda":
        raise SkippedError("vLLM on a CPU is measured by rollout_engines.py, not here")
    started, is_vllm = now(), args.engine == "vllm"
    prompt_ids = encode_prompts(tokenizer, prompts_of_countdown(args.rows))
    longest = most_tokens(prompt_ids, args.limit)
    found = vllm_engine(folder, longest) if is_vllm else transformers_engines(folder, tokenizer)
    if not found:
        raise SkippedError("vLLM is not installed")
    start_s = now() - started
    sample = found[ENGINES[args.engine]]
    sample(prompt_ids, min(args.limit, WARM_UP_TOKENS))
    started = now()
    completions = sample(prompt_ids, args.limit)
    seconds = now() - started
    tokens = sum(length_tokens(ids, tokenizer.eos_token_id) for ids in completions)
    if len(completions) != args.rows or tokens < args.rows * args.limit * LEAST_SHARE:
        raise RuntimeError(f"{len(completions)} completions of {tokens} tokens came; see the log for the reason")
    return {"start_s": start_s, "seconds": seconds, "tokens": tokens, "tokens_per_s": tokens / seconds}


if __name__ == "__main__":
    run_part(
        __doc__,
        measure,
        engine={"choices": ENGINES, "required": True},
        rows={"type": int, "required": True},
        limit={"type": int, "required": True},
    )
