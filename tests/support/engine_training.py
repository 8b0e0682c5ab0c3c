"""Train on placed rollouts under whatever engine launched this, resume from the middle, and write down what came of it.

Each of `SETTINGS` trains once without a break and once more from the checkpoint in the middle. Every rank takes several
passes to a micro-batch, and different ones: what an engine exchanges, and when, is what these runs can get wrong.
"""

import os
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset

from tests.support.fixed_rollouts import GROUP_SIZE, LONGEST_COMPLETION, PROMPTS, tiny_model_path, tiny_tokenizer
from tests.support.fsdp_on_cpu import let_cpus_count
from tests.support.ranks import write_down
from tests.support.windows_by_ranks import (
    GLOBAL_BATCH,
    MODEL,
    MOVING_WINDOWS,
    Windows,
    finished_in_an_odd_number,
    placed,
)
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer

STEPS, RESUMED_FROM, ACCUMULATION = 6, 4, 2
SETTINGS: dict[str, dict[str, Any]] = {
    "rows": {"loss_type": "grpo", "beta": 0.0, "gradient_checkpointing": False},
    "kl": {"loss_type": "dapo", "beta": 0.1, "num_iterations": 2, "gradient_checkpointing": True},
}
MODELS = {"rows": MODEL, "kl": tiny_model_path(tied_embeddings=True)}


PlacedRollouts: Any = placed(AdaptiveGRPOTrainer)


class GeneratesInEvaluation(PlacedRollouts):
    """Training is compared between engines and so must not depend on random numbers; evaluation samples for real."""

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        if self.model.training:
            return super()._generate_single_turn(*args, **kwargs)
        return super(PlacedRollouts, self)._generate_single_turn(*args, **kwargs)


def train(name: str, folder: Path, ranks: int, resume_from: Path | None = None) -> dict[str, Any]:
    """What happened at each step, from the start or from a checkpoint; the final weights go to `folder`."""
    trainer = GeneratesInEvaluation(
        MODELS[name],
        finished_in_an_odd_number,
        AdaptiveGRPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=GLOBAL_BATCH // ranks // ACCUMULATION,
            gradient_accumulation_steps=ACCUMULATION,
            max_tokens_per_micro_batch=40,
            per_device_eval_batch_size=8 // ranks,
            num_generations=GROUP_SIZE,
            num_generations_eval=1,
            max_completion_length=LONGEST_COMPLETION,
            max_steps=STEPS,
            learning_rate=0.01,
            lr_scheduler_type="linear",
            adam_epsilon=1e-3,  # below it, Adam divides rounding by its own size
            max_grad_norm=0.05,
            window_strategy="success",
            **MOVING_WINDOWS["success"],
            save_strategy="steps",
            save_steps=RESUMED_FROM,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            **SETTINGS[name],
        ),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 16}),
        eval_dataset=Dataset.from_dict({"prompt": PROMPTS * 2, "index": list(range(8))}),
        processing_class=tiny_tokenizer(),
    )
    trainer.add_callback(windows := Windows(trainer.window_callback.policy))
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    trainer.save_model(str(folder))
    evaluated = trainer.evaluate()
    log = [line for line in trainer.state.log_history if "loss" in line]
    return {
        "engine": trainer.accelerator.distributed_type.value,
        "model": type(trainer.model_wrapped).__name__,
        "windows": windows.seen,
        "losses": [line["loss"] for line in log],
        "grad_norms": [line["grad_norm"] for line in log],
        "kl": [line.get("kl", 0.0) for line in log],
        "evaluated": evaluated["eval/n"],
        "eval_mean_length": evaluated["eval/mean_length"],
    }


def train_and_resume(names: list[str], workshop: Path, ranks: int) -> dict[str, Any]:
    """By setting and by way: `whole` and `resumed`."""
    results = {}
    for name in names:
        whole, resumed = workshop / name / "whole", workshop / name / "resumed"
        results[name] = {
            "whole": train(name, whole, ranks),
            "resumed": train(name, resumed, ranks, whole / f"checkpoint-{RESUMED_FROM}"),
        }
    return results


if __name__ == "__main__":
    let_cpus_count()
    folder, size = Path(sys.argv[1]), int(os.environ.get("WORLD_SIZE", 1))
    write_down({"ranks": size, **train_and_resume(sys.argv[2:], folder, size)}, folder)
