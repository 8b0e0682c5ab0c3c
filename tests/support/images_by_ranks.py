"""Train on batches of which the first rank's alone hold images, as prompts with and without images do.

Run under torchrun; prints how many steps each rank has taken. Ranks that cut their rows into micro-batches would wait
for ever for those that do not.
"""

import tempfile
from typing import Any

from datasets import Dataset

from tests.support.fixed_rollouts import GROUP_SIZE, LONGEST_COMPLETION, PROMPTS, tiny_tokenizer
from tests.support.ranks import tell
from tests.support.windows_by_ranks import GLOBAL_BATCH, MODEL, finished_in_an_odd_number, placed
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer

PlacedRollouts: Any = placed(AdaptiveGRPOTrainer)


class ImagesOnTheFirstRank(PlacedRollouts):
    """Counts of images go with a batch that has some; a count of 0 is one that a model of text can read, too."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        return output | ({} if self.accelerator.process_index else {"num_images": [0] * len(inputs)})


if __name__ == "__main__":
    trainer = ImagesOnTheFirstRank(
        MODEL,
        finished_in_an_odd_number,
        AdaptiveGRPOConfig(
            tempfile.mkdtemp(),
            **{"per_device_train_batch_size": GLOBAL_BATCH // 2, "num_generations": GROUP_SIZE, "max_steps": 2},
            **{"max_completion_length": LONGEST_COMPLETION, "max_tokens_per_micro_batch": 60, "window_min": 4},
            **{"save_strategy": "no", "report_to": [], "use_cpu": True, "bf16": False},
        ),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 16}),
        processing_class=tiny_tokenizer(),
    )
    trainer.loss.sees_images = True
    trainer.train()
    tell(trainer.state.global_step)
