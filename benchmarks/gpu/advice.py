"""Which engine a user without vLLM should choose on this card, from what `gpu_check.py` has measured."""

from typing import Any

CLEARLY = 1.1
"""How many times as fast continuous batching must be before it is recommended in place of the default."""


def engine_advice(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Tokens per second of continuous batching over ours, load by load, and what follows; empty before both are known.

    The loads are those of `gpu.sampling`, where rows reach the limit, and the rollouts of `gpu.training`, where most
    end before. Their parts are named `sampling/LOAD/ENGINE` and `training/LOAD/ENGINE`.
    """
    speeds: dict[str, dict[str, float]] = {}
    for name, found in parts.items():
        load, _, engine = name.rpartition("/")
        if "tokens_per_s" in found:
            speeds.setdefault(load, {})["ours" if engine == "transformers" else engine] = found["tokens_per_s"]
    times = {load: by["continuous"] / by["ours"] for load, by in speeds.items() if {"continuous", "ours"} <= by.keys()}
    return {"continuous_over_ours": times, "without_vllm": _conclusion(times.values())} if times else {}


def _conclusion(times: Any) -> str:
    if min(times) >= CLEARLY:
        return "use_transformers_continuous_batching: true, it was faster at every load"
    if max(times) < CLEARLY:
        return "engine: transformers, continuous batching was faster at no load"
    return "engine: transformers, unless your load is like one at which continuous batching was faster"
