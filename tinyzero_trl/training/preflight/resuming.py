"""Whether a run may continue from the checkpoint that `resume` names."""

import json
from pathlib import Path
from typing import Any

from tinyzero_trl.runs.checkpoints import TRAINER_STATE
from tinyzero_trl.runs.files import read_mapping
from tinyzero_trl.runs.records import CONFIG

_ARCHITECTURE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")


def check_checkpoint(checkpoint: str, model_config: Any, task: str, window_strategy: str) -> None:
    """A run continues only from a checkpoint of its own kind: the same architecture, task and window strategy.

    Raises:
        ValueError: names the field in which the checkpoint differs.
    """
    folder = Path(checkpoint)
    found: dict[str, Any] = {"window_strategy": _saved_strategy(folder)}
    if (folder.parent / CONFIG).is_file():
        found["task"] = read_mapping(folder.parent / CONFIG).get("task")
    wanted: dict[str, Any] = {"window_strategy": window_strategy, "task": task}
    if (folder / "config.json").is_file():
        saved = read_mapping(folder / "config.json")  # JSON is YAML
        found |= {name: saved.get(name) for name in _ARCHITECTURE}
        wanted |= {name: getattr(model_config, name, None) for name in _ARCHITECTURE}
    for name, value in found.items():
        if value is not None and wanted[name] is not None and value != wanted[name]:
            raise ValueError(
                f"resume: {checkpoint!r} is of another recipe ({name}: {value!r} there, {wanted[name]!r} here); "
                "give --resume never, or another output_dir"
            )


def _saved_strategy(folder: Path) -> str | None:
    """The window strategy whose state a checkpoint holds, if it holds one."""
    state = json.loads((folder / TRAINER_STATE).read_text(encoding="utf-8"))
    try:
        return state["stateful_callbacks"]["AdaptiveWindowCallback"]["attributes"]["saved"]["strategy"]
    except (KeyError, TypeError):
        return None
