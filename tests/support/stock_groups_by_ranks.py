"""Stock TRL with a decision per group, on ranks that share a group; under torchrun, prints what each policy saw."""

import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from tests.support.ranks import tell
from tests.support.staged_rollouts import PROMPTS
from tests.support.tiny_models import build_tokenizer
from tinyzero_trl import WindowConfig, WindowController

SETTINGS: dict[str, Any] = {"num_generations": 4, "per_device_train_batch_size": 6, "max_completion_length": 24}
SETTINGS |= {"max_steps": 3, "save_strategy": "no", "report_to": [], "use_cpu": True, "bf16": False}


def even(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(len(ids) % 2 == 0) for ids in completion_ids]


def main(workshop: Path) -> None:
    trainer = GRPOTrainer(
        str(workshop / "model"),
        even,
        GRPOConfig(str(workshop / "run"), **SETTINGS),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 4}),
        processing_class=build_tokenizer(),
    )
    config = WindowConfig(strategy="group", group_rule="plain", initial=8, explore_share=0.0)
    policy = WindowController(config).attach(trainer).policy
    seen: list[dict[str, Any]] = []
    learn = policy.learn

    def learn_and_note(observation: Any) -> None:
        columns = ("lengths", "rewards", "truncated", "groups", "prompt_keys")
        seen.append({name: list(getattr(observation, name)) for name in columns})
        learn(observation)

    policy.learn = learn_and_note  # type: ignore[method-assign]
    trainer.train()
    tell(seen)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
