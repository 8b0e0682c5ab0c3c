"""The model card of a run: what was trained, how, and what came of it."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from tinyzero_trl.records import Run, read_run, write_atomically

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
    base = config.get("model_name_or_path")
    metadata = ModelCardData(
        library_name="transformers",
        tags=["trl", "grpo", "tinyzero-trl", "reasoning"],
        pipeline_tag="text-generation",
        base_model=base if base and "/" in str(base) and not Path(str(base)).exists() else None,
    )
    lines = [
        "---",
        metadata.to_yaml(),
        "---",
        "",
        f"# {config.get('hub_model_id') or Path(str(config.get('output_dir', run.path))).name}",
        "",
        f"Trained from `{base}` on {config['task']} with GRPO under a rollout window.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in _facts(run)),
    ]
    if (run.path / "plots" / "accuracy.png").exists():
        lines += ["", "![Held-out accuracy over rollout tokens](plots/accuracy.png)"]
    return "\n".join(lines) + "\n"


def _facts(run: Run) -> list[tuple[str, str]]:
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
        last = run.evals[-1]
        facts += [
            (
                "held-out accuracy",
                f"{last['eval/acc']:.1%} (95 % interval {last['eval/acc_low']:.1%} to {last['eval/acc_high']:.1%}, "
                f"{int(last['eval/n'])} problems, step {last['step']})",
            ),
            ("rollout tokens", f"{last['tokens']:,}"),
        ]
    return [(name, str(value)) for name, value in facts if value is not None]
