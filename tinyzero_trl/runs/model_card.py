"""The model card of a run: what was trained, how, and what came of it."""

import html
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from tinyzero_trl.runs.files import write_atomically
from tinyzero_trl.runs.records import Run, answers_of, read_run

CARD = "README.md"


def write_model_card(folder: str | Path) -> Path:
    """Write the card of a run directory from its records alone, so that it says what was recorded."""
    run = read_run(folder)
    path = Path(folder) / CARD
    write_atomically(path, render_card(run))
    return path


def render_card(run: Run) -> str:
    """The card's Markdown with the metadata that the Hub reads, the accuracy as a model index among it."""
    config = run.config
    base = str(config.get("model_name_or_path"))
    title = _one_line(config.get("hub_model_id") or Path(str(config.get("output_dir", run.path))).name)
    is_on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists()
    metadata = ModelCardData(
        library_name="transformers",
        tags=["trl", "grpo", "tinyzero-trl", "reasoning"],
        pipeline_tag="text-generation",
        base_model=base if is_on_hub else None,
        model_name=title,
        eval_results=_eval_results(run),
    )
    return ModelCard.from_template(
        metadata,
        template_str=files("tinyzero_trl.runs").joinpath("templates", "model_card.md").read_text(encoding="utf-8"),
        title=title,
        base=_one_line(Path(base).name if Path(base).is_absolute() else base),  # where it lies is private
        task=f" on {_one_line(config['task'])}" if config.get("task") else "",
        facts=[(name, _one_line(value)) for name, value in _facts(run)],
        has_picture=(run.path / "plots" / "accuracy.png").exists(),
    ).content


def _one_line(value: Any) -> str:
    """Text from a recipe that neither Markdown nor a browser take for anything else, such as a picture."""
    text = html.escape(" ".join(str(value).split()), quote=False)
    return text.replace("|", "\\|").replace("`", "'").replace("[", "&#91;")


def _facts(run: Run) -> list[tuple[str, Any]]:
    config = run.config
    facts: list[tuple[str, Any]] = [
        ("recipe", config.get("recipe")),
        ("window policy", config.get("window_strategy")),
        ("window", _window(config)),
        ("prompt template", config.get("prompt_template")),
        ("seed", config.get("seed")),
        ("code", run.environment.get("git_commit")),
    ]
    if (kept := _kept(run)) is not None:
        first = run.judged_evals[0]
        if first["step"] == 0 and first is not run.judged_evals[-1]:
            facts.append(("held-out accuracy before training", _accuracy(first)))
        facts += [("held-out accuracy", _accuracy(kept)), ("rollout tokens", f"{run.evals[-1]['tokens']:,}")]
    return [(name, value) for name, value in facts if value is not None]


def _window(config: Mapping[str, Any]) -> str:
    longest = config.get("window_max")
    if config.get("window_strategy") == "group":
        return f"{longest} tokens, before which groups may stop"
    return f"{config.get('window_min')} to {longest} tokens"


def _kept(run: Run) -> dict[str, Any] | None:
    """The evaluation of the weights beside the card: those of the best step, where a run keeps these."""
    best = run.evaluation_at((run.summary or {}).get("best_step"))
    return best or (run.judged_evals[-1] if run.judged_evals else None)


def _accuracy(line: dict[str, Any]) -> str:
    interval = f"95 % interval {line['eval/acc_low']:.1%} to {line['eval/acc_high']:.1%}"
    return f"{line['eval/acc']:.1%} ({interval}, {answers_of(line)}, step {line['step']})"


def _eval_results(run: Run) -> list[EvalResult] | None:
    kept, task = _kept(run), run.config.get("task")
    if kept is None:
        return None
    result = EvalResult(
        task_type="text-generation",
        dataset_type=str(task or "held-out problems"),
        dataset_name=f"{task}, held-out problems" if task else "held-out problems",
        dataset_split="test",
        metric_type="accuracy",
        metric_name=f"accuracy at full length, {answers_of(kept)}",
        metric_value=round(kept["eval/acc"], 4),
    )
    return [result]
