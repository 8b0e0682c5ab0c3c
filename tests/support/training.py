"""A short run of the recipe program on a random model, with everything that each rank saw; runs under torchrun too."""

import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from tests.support.ranks import ROOT, write_down
from tests.support.tiny_models import save_tiny_model, write_problems
from tinyzero_trl import AdaptiveGRPOTrainer
from tinyzero_trl.runs import report
from tinyzero_trl.tasks import countdown
from tinyzero_trl.training import run
from tinyzero_trl.training.recipe.parser import parse_recipe

PROGRAM = ROOT / "recipes" / "countdown_adaptive.py"
LONGEST = 24
SMALL_STEPS = {"window_growth_delta": 4, "window_shrink_delta": 4, "window_min_samples": 2}
WINDOWS: dict[str, dict[str, Any]] = {
    "success": {
        **SMALL_STEPS,
        "window_min_change": 2,
        "window_length_tolerance": 2,
        "window_update_frequency": 1,
        "window_epsilon": 0.3,
    },
    "group": {"window_group_rule": "plain", "window_explore_share": 0.3},
    "signal": {**SMALL_STEPS, "window_memory_rollouts": 4, "window_probe_every": 2},
}
BASE = {
    "max_completion_length": LONGEST,
    "window_initial": 12,
    "window_min": 4,
    "num_generations": 4,
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "per_device_eval_batch_size": 8,
    "num_generations_eval": 1,
    "max_steps": 6,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "constant",
    "beta": 0.0,
    "dtype": "float32",
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_strategy": "steps",
    "save_steps": 3,
    "logging_steps": 1,
    "report_to": "none",
    "seed": 7,
}
RECIPE = {**BASE, "window_strategy": "success", **WINDOWS["success"]}


@dataclass
class Batch:
    """What one rank generated at once, and the limits that were in force."""

    training: bool
    window: int  # the policy's
    engine_limit: int  # the generator's
    normaliser: int  # the loss's
    prompts: list[str]
    ids: list[list[int]]
    lengths: list[int]
    truncated: list[bool]
    rewards: list[float]
    operands: list[int]


class WatchedTrainer(AdaptiveGRPOTrainer):
    """Writes down each batch from what the generator returned, judged anew."""

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        batch = Batch(
            training=self.model.training,
            window=self.window_callback.window,
            engine_limit=(
                self.vllm_generation.max_completion_length if self.use_vllm else self.generation_config.max_new_tokens
            ),
            normaliser=self.max_completion_length,
            prompts=list(prompts),
            ids=completion_ids_list,
            lengths=[len(ids) for ids in completion_ids_list],
            truncated=[self.processing_class.eos_token_id not in ids for ids in completion_ids_list],
            rewards=[
                countdown.score(text, row["numbers"], row["target"]).reward
                for text, row in zip(completions, inputs, strict=True)
            ],
            operands=[len(row["numbers"]) for row in inputs],
        )
        self.__dict__.setdefault("batches", []).append(batch)
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)


def write_recipe(workshop: Path, name: str = "run", **overrides: Any) -> Path:
    """A recipe for `workshop/name`; model and problems are written once per workshop."""
    if not (workshop / "model").exists():
        save_tiny_model(workshop / "model")
        (workshop / "problems").mkdir()
        for split in ("train", "test"):
            write_problems(workshop / "problems" / f"{split}.jsonl")
    places = {
        "model_name_or_path": str(workshop / "model"),
        "dataset": str(workshop / "problems"),
        "allow_overlap": True,
        "output_dir": str(workshop / name),
    }
    recipe = workshop / f"{name}.yaml"
    strategy = overrides.get("window_strategy", "success")
    window = {"window_strategy": strategy, **WINDOWS.get(strategy, {})}
    recipe.write_text(yaml.safe_dump({**BASE, **window, **places, **overrides}))
    return recipe


def train(
    recipe: Path, trainer_class: type[WatchedTrainer] = WatchedTrainer, *, pictures: bool = False
) -> WatchedTrainer:
    """What the program's `main` does, with a trainer that is watched.

    `pictures` are for tests that look at them: drawing takes longer than a short training.
    """
    task, training, model = parse_recipe(["--config", str(recipe)])
    training.eval_on_start = True
    with patch.object(run, "AdaptiveGRPOTrainer", trainer_class):
        trainer = run.build_trainer(task, training, model)
    run.start_run(trainer, task, model)
    trainer.train()
    with nullcontext() if pictures else patch.object(report, "write_pictures", return_value="none"):
        run.finish_run(trainer)
    return trainer


if __name__ == "__main__":
    watched = train(Path(sys.argv[1]))
    seen = {"ranks": watched.accelerator.num_processes, "batches": [asdict(batch) for batch in watched.batches]}
    write_down(seen, Path(sys.argv[2]))
