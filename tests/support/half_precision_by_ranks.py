"""Train under FSDP2 in bfloat16; every rank writes down which of its log-probabilities bfloat16 could not hold."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from tests.support.fixed_rollouts import GROUP_SIZE, LONGEST_COMPLETION, PROMPTS, tiny_tokenizer
from tests.support.fsdp_on_cpu import let_cpus_count
from tests.support.ranks import write_down
from tests.support.windows_by_ranks import GLOBAL_BATCH, MODEL, finished_in_an_odd_number, placed
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer

PlacedRollouts: Any = placed(AdaptiveGRPOTrainer)


class Watched(PlacedRollouts):
    """Notes of each pass of policy and reference whether a log-probability has more digits than bfloat16."""

    seen: list[tuple[bool, bool]]

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        values = found[0].detach().float()
        self.seen.append((model is self.ref_model, not torch.equal(values, values.bfloat16().float())))
        return found


if __name__ == "__main__":
    let_cpus_count()
    folder, size = Path(sys.argv[1]), int(os.environ["WORLD_SIZE"])
    trainer = Watched(
        MODEL,
        finished_in_an_odd_number,
        AdaptiveGRPOConfig(
            output_dir=str(folder / "run"),
            per_device_train_batch_size=GLOBAL_BATCH // size,
            num_generations=GROUP_SIZE,
            max_completion_length=LONGEST_COMPLETION,
            max_steps=1,
            beta=0.1,
            window_strategy="fixed",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 16}),
        processing_class=tiny_tokenizer(),
    )
    trainer.seen = []
    trainer.train()
    assert trainer.accelerator.state.fsdp_plugin.mixed_precision_policy.param_dtype == torch.bfloat16
    write_down(trainer.seen, folder)
