"""Which of TRL's engines samples a rollout fastest here: tokens per second of each on the same prompts.

    python benchmarks/rollout_engines.py --out results/rollout_engines.json

The engines: `generate` with its growing cache, as TRL calls it; the same with finished rows leaving the batch and no
copies of the cache (ours, `tinyzero_trl.generation.compacting`); `generate` with a static cache; Transformers'
continuous batching, with TRL's share of the memory on a GPU; and vLLM, where it is installed beside a CUDA device. All
sample at temperature 1 with seeds of their own, so they write different completions of the same distribution: compare
tokens per second. Each takes one round to warm up, then `--rounds` measured ones in turn; the figures are medians.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig

from tinyzero_trl.generation.compacting import compacting_generate
from tinyzero_trl.generation.prompts import encode_prompts
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.runs.environment import describe_environment
from tinyzero_trl.tasks import countdown

Engine = Callable[[list[list[int]], int], list[list[int]]]
"""Token ids of prompts and a limit -> token ids of completions; what follows an end token is not counted."""

MEMORY_SHARE = 0.5 if torch.cuda.is_available() else 0.05
"""Part of the memory that continuous batching takes: on a GPU what TRL gives it, on a CPU not all that others need."""


def main() -> None:
    args = parse_arguments()
    path = resolve_model(args.model)
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    problems = countdown.generate(args.rows // args.num_generations, seed=0, operands=(3, 4), max_number=12)
    prompts = [countdown.render_prompt(problem, "base") for problem in problems for _ in range(args.num_generations)]
    prompt_ids = encode_prompts(tokenizer, prompts)
    available = transformers_engines(path, tokenizer)
    if torch.cuda.is_available():
        available |= vllm_engine(path, most_tokens(prompt_ids, args.max_completion_length))
    seconds: dict[str, list[float]] = {name: [] for name in available}
    tokens: dict[str, list[int]] = {name: [] for name in available}
    for measured in range(-1, args.rounds):
        for name, sample in available.items():
            started_at = time.perf_counter()
            completions = sample(prompt_ids, args.max_completion_length)
            elapsed_s = time.perf_counter() - started_at
            lengths = [length_tokens(ids, tokenizer.eos_token_id) for ids in completions]
            print(f"{name}: {sum(lengths) / elapsed_s:.0f} tokens/s, mean length {sum(lengths) / len(lengths):.0f}")
            if measured >= 0:
                seconds[name].append(elapsed_s)
                tokens[name].append(sum(lengths))
    speeds = {name: median(n / s for n, s in zip(tokens[name], seconds[name], strict=True)) for name in available}
    result = {
        "tokens_per_s": speeds,
        "times_generate": {name: speed / speeds["generate"] for name, speed in speeds.items()},
        "rounds": {name: {"seconds": seconds[name], "tokens": tokens[name]} for name in available},
        "environment": describe_environment() | {"settings": vars(args) | {"out": None}},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--model", default="embedded", help="embedded, a path or a Hub id")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--num-generations", type=int, default=8)
    parser.add_argument("--max-completion-length", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def transformers_engines(path: str, tokenizer: Any) -> dict[str, Engine]:
    """The engines that need no further package, by name."""
    on_cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_cuda else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    model = model.to("cuda" if on_cuda else "cpu").eval()
    shared: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    shared |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}

    def padded(sample: Callable[..., torch.Tensor], **options: Any) -> Engine:
        def run(prompt_ids: list[list[int]], limit: int) -> list[list[int]]:
            inputs = tokenizer.pad({"input_ids": prompt_ids}, return_tensors="pt").to(model.device)
            config = GenerationConfig(**shared, max_new_tokens=limit, **options)
            arguments = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
            with torch.no_grad():
                return sample(**arguments, generation_config=config)[:, inputs["input_ids"].size(1) :].tolist()

        return run

    def continuous(prompt_ids: list[list[int]], limit: int) -> list[list[int]]:
        config, memory = GenerationConfig(**shared, max_new_tokens=limit), ContinuousBatchingConfig()
        memory.max_memory_percent = MEMORY_SHARE
        with torch.no_grad():
            outputs = model.generate_batch(prompt_ids, config, memory)
        return [output.generated_tokens for output in outputs.values()]

    def compacting(**arguments: Any) -> torch.Tensor:
        return compacting_generate(model, **arguments)

    return {
        "generate": padded(model.generate),
        "finished rows leave": padded(compacting),
        "static cache": padded(model.generate, cache_implementation="static"),
        "continuous batching": continuous,
    }


def most_tokens(prompt_ids: list[list[int]], limit: int) -> int:
    """Tokens of the longest prompt and the longest completion together."""
    return max(map(len, prompt_ids)) + limit


def vllm_engine(path: str, max_model_len: int) -> dict[str, Engine]:
    """vLLM, or nothing where it is not installed."""
    try:
        from vllm import LLM, SamplingParams
    except ImportError:
        return {}
    engine = LLM(path, dtype="bfloat16", gpu_memory_utilization=0.4, max_model_len=max_model_len)

    def run(prompt_ids: list[list[int]], limit: int) -> list[list[int]]:
        parameters = SamplingParams(max_tokens=limit, temperature=1.0)
        outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompt_ids], parameters, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    return {"vllm": run}


def length_tokens(ids: list[int], end: int) -> int:
    return ids.index(end) + 1 if end in ids else len(ids)


if __name__ == "__main__":
    main()
