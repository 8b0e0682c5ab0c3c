"""The model card of a run: what was trained, how, and what came of it."""

import html
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from tinyzero_trl.runs.records import Run, read_run, write_atomically

CARD = "README.md"


def write_model_card(folder: str | Path) -> Path:
    """Write the card of a run directory from its records alone, so that it says what was recorded."""
    run = read_run(folder)
    path = Path(folder) / CARD
    write_atomically(path, render_card(run))
    return path


def render_card(run: Run) -> str:
    """The card's Markdown with the metadata that the Hub reads."""
    config = run.config
    base = str(config.get("model_name_or_path"))
    is_on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists()
    metadata = ModelCardData(
        library_name="transformers",
        tags=["trl", "grpo", "tinyzero-trl", "reasoning"],
        pipeline_tag="text-generation",
        base_model=base if is_on_hub else None,
    )
    task = f" on {_one_line(config['task'])}" if config.get("task") else ""
    lines = [
        "---",
        metadata.to_yaml(),
        "---",
        "",
        f"# {_one_line(config.get('hub_model_id') or Path(str(config.get('output_dir', run.path))).name)}",
        "",
        f"Trained from `{_one_line(base)}`{task} with GRPO under a rollout window.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {_one_line(value)} |" for name, value in _facts(run)),
    ]
    if (run.path / "plots" / "accuracy.png").exists():
        lines += ["", "![Held-out accuracy over rollout tokens](plots/accuracy.png)"]
    return "\n".join(lines) + "\n"


def _one_line(value: Any) -> str:
    """Text from a recipe that neither Markdown's tables nor a browser take for anything else."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return text.replace("|", "\\|").replace("`", "'")


def _facts(run: Run) -> list[tuple[str, Any]]:
    config = run.config
    facts: list[tuple[str, Any]] = [
        ("recipe", config.get("recipe")),
        ("window policy", config.get("window_strategy")),
        ("window", f"{config.get('window_min')} to {config.get('window_max')} tokens"),
        ("prompt template", config.get("prompt_template")),
        ("seed", config.get("seed")),
        ("code", (run.environment or {}).get("git_commit")),
    ]
    if run.evals:
        first, last = run.evals[0], run.evals[-1]
        kept = run.evaluation_at((run.summary or {}).get("best_step")) or last  # whose weights the card is beside
        if first["step"] == 0 and first is not last:
            facts.append(("held-out accuracy before training", _accuracy(first)))
        facts += [("held-out accuracy", _accuracy(kept)), ("rollout tokens", f"{last['tokens']:,}")]
    return [(name, value) for name, value in facts if value is not None]


def _accuracy(line: dict[str, Any]) -> str:
    interval = f"95 % interval {line['eval/acc_low']:.1%} to {line['eval/acc_high']:.1%}"
    return f"{line['eval/acc']:.1%} ({interval}, {int(line['eval/n'])} problems, step {line['step']})"
