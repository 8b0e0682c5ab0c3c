"""Two thousand rollouts with the smallest model: does memory stay flat, and whatever is saved bounded?

    python benchmarks/long_run.py --out results/long_run

trains a random Qwen2 of a few thousand weights on two CPU cores in minutes, and writes `long_run.json`: resident memory
every fifty rollouts, the sizes of the policy's state, of a checkpoint's trainer state and of the records, and how long
the report takes. Ends with status 1 if the memory of the last tenth of the run lies more than 5 % above that of the
first tenth after warm-up.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import psutil
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import ModelConfig

from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer
from tinyzero_trl.runs.checkpoints import TRAINER_STATE, step_of
from tinyzero_trl.runs.environment import describe_environment
from tinyzero_trl.runs.files import write_atomically
from tinyzero_trl.runs.records import COMPLETIONS, METRICS
from tinyzero_trl.runs.report import write_report
from tinyzero_trl.tasks.config import TaskConfig
from tinyzero_trl.training.run import start_run

LARGEST_GROWTH = 1.05
MEASURED_EVERY = 50
VOCABULARY, END = 12, 1


class Meter(TrainerCallback):
    """Memory and the size of the policy's state, every `MEASURED_EVERY` rollouts."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.measured: list[dict[str, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure now and then."""
        if state.global_step % MEASURED_EVERY == 0:
            policy = json.dumps(self.trainer.window_callback.state_dict())
            memory = psutil.Process(os.getpid()).memory_info().rss
            self.measured.append({"rollout": state.global_step, "memory_mb": memory / 1e6, "policy_bytes": len(policy)})


def odd_and_finished(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A verdict that chance earns, at any length: the completion has ended, and the sum of its tokens is odd."""
    return [float(ids[-1] == END and sum(ids) % 2 == 1) for ids in completion_ids]


def smallest_tokenizer() -> PreTrainedTokenizerFast:
    """A dozen words, so that a random model ends its completions now and then."""
    words = {"<pad>": 0, "<end>": END} | {f"w{index}": index for index in range(2, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="w2", padding_side="left"
    )


def smallest_model(folder: Path) -> str:
    """Save a random Qwen2 with one layer."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        pad_token_id=0,
        eos_token_id=END,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return str(folder)


def train(folder: Path, rollouts: int, strategy: str) -> list[dict[str, float]]:
    """Train in `folder / "run"` and return what the meter saw."""
    model, meter = smallest_model(folder / "model"), Meter()
    config = AdaptiveGRPOConfig(
        output_dir=str(folder / "run"),
        max_completion_length=16,
        window_strategy=strategy,
        window_initial=8,
        window_min=2,
        num_generations=4,
        per_device_train_batch_size=8,
        max_steps=rollouts,
        learning_rate=1e-5,
        eval_strategy="steps",
        eval_steps=rollouts // 4,
        per_device_eval_batch_size=8,
        num_generations_eval=1,
        save_strategy="steps",
        save_steps=rollouts // 4,
        save_total_limit=None,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
    )
    prompts = [f"w{first} w{second}" for first in range(2, VOCABULARY) for second in range(2, VOCABULARY)]
    trainer = AdaptiveGRPOTrainer(
        model,
        [odd_and_finished],
        config,
        train_dataset=Dataset.from_dict({"prompt": prompts[8:]}),
        eval_dataset=Dataset.from_dict({"prompt": prompts[:8]}),
        processing_class=smallest_tokenizer(),
        callbacks=[meter],
    )
    meter.trainer = trainer
    start_run(trainer, TaskConfig(recipe="long_run"), ModelConfig(model_name_or_path=model))
    trainer.train()
    return meter.measured


def sizes(run: Path) -> dict[str, Any]:
    """Bytes of what a run writes, and of the trainer state in each of its checkpoints."""
    states = {step_of(file.parent): file.stat().st_size for file in run.glob(f"*/{TRAINER_STATE}")}
    return {
        "trainer_state_bytes": [states[step] for step in sorted(states)],
        "metrics_bytes": (run / METRICS).stat().st_size,
        "completions_bytes": sum(file.stat().st_size for file in (run / COMPLETIONS).iterdir()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for long_run.json")
    parser.add_argument("--rollouts", type=int, default=2000)
    parser.add_argument("--strategy", default="signal", help="window_strategy; signal keeps most state")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started_at = time.perf_counter()
        measured = train(Path(folder), given.rollouts, given.strategy)
        training_s = time.perf_counter() - started_at
        run = Path(folder) / "run"
        started_at = time.perf_counter()
        write_report([run], Path(folder) / "report")
        report_s = time.perf_counter() - started_at
        tenth = max(1, len(measured) // 10)
        memory = [each["memory_mb"] for each in measured]
        growth = mean(memory[-tenth:]) / mean(memory[tenth : 2 * tenth])
        result = {
            "rollouts": given.rollouts,
            "window_strategy": given.strategy,
            "memory_growth_ratio": growth,
            "seconds_per_rollout": training_s / given.rollouts,
            "report_s": report_s,
            **sizes(run),
            "measured": measured,
            "environment": describe_environment(),
        }
    given.out.mkdir(parents=True, exist_ok=True)
    write_atomically(given.out / "long_run.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name not in ("measured", "environment")}))
    return 0 if growth <= LARGEST_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
