"""The table of `docs/performance.md` from a result of `gpu_check.py`, as Markdown.

python benchmarks/gpu_table.py results/gpu/CARD.json
"""

import argparse
import json
from pathlib import Path
from typing import Any


def table(result: dict[str, Any]) -> str:
    """One row for each part that was measured or tried, and which engine follows from them."""
    rows = [f"| {result['card']} | figures |", "| --- | --- |"]
    rows += [f"| {name} | {figures(name, found, result['parts'])} |" for name, found in result["parts"].items()]
    if advice := result.get("engine"):
        times = ", ".join(f"{load} {ratio:.2f} x" for load, ratio in advice["continuous_over_ours"].items())
        rows.append(f"| continuous batching over ours | {times}; without vLLM: {advice['without_vllm']} |")
    return "\n".join(rows)


def figures(name: str, found: dict[str, Any], parts: dict[str, Any]) -> str:
    """The figures of a part in words, or why there are none."""
    for reason in ("skipped", "failed"):
        if reason in found:
            return f"{reason}: {found[reason]}".replace("|", "\\|")
    kind, *details = name.split("/")
    if kind == "optimization":
        return _optimization(found, parts.get(f"optimization/{details[0]}/stock", {}))
    if kind == "training":
        accuracy = " -> ".join(f"{100 * value:.1f} %" for value in found["accuracy"])
        windows = " ".join(f"{window:.0f}" for window in found["windows"])
        speed = f"{found['tokens_per_s']:,.0f} tokens/s"
        return f"{found['seconds']:.0f} s, {speed} in rollouts, accuracy {accuracy}, windows {windows}"
    if kind == "sampling":
        return f"{found['tokens_per_s']:,.0f} tokens/s"
    if kind == "synchronisations":
        return f"{found['ours_per_token']:.2f} for a token, {found['generate_per_token']:.2f} with `generate`"
    if kind == "handover":
        gaps = found["gaps"]
        return f"largest gap of a log-probability {max(each['after'] for each in gaps):.2g}, " + (
            f"before the hand-over {max(each['before'] for each in gaps):.2g}"
        )
    if kind == "attention":
        faults = [f"{model}: {fault}" for model, fault in found.items() if isinstance(fault, str)]
        return "; ".join(faults) or "the kernel gives what its reference gives"
    return "in the log"


def _optimization(found: dict[str, Any], stock: dict[str, Any]) -> str:
    """Seconds, the ratio to stock TRL, operations per second and memory."""
    texts = [f"{found['optimize_s']:.2f} s"]
    if "optimize_s" in stock:
        texts.append(f"{found['optimize_s'] / stock['optimize_s']:.2f} x stock")
    share = f" ({100 * found['mfu']:.0f} % of the peak)" if "mfu" in found else ""
    texts.append(f"{found['tflops']:.3g} TFLOP/s{share}")
    if "peak_gib" in found:
        texts.append(f"{found['peak_gib']:.1f} GiB, planned {found['planned_gib']:.1f}")
    return ", ".join(texts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="what gpu_check.py wrote")
    print(table(json.loads(parser.parse_args().result.read_text())))
