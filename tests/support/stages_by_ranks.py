"""Rollouts in stages on ranks that share a vLLM engine (tensor parallelism); under torchrun, prints what each saw."""

import sys
from pathlib import Path
from typing import Any

from tests.support.ranks import tell
from tests.support.staged_rollouts import greedy_trainer, sampled
from tinyzero_trl.generation.engine import SampledBatch
from tinyzero_trl.generation.stages import Stages
from tinyzero_trl.generation.vllm_on_cpu import adapt_vllm_to_cpu

VLLM = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 160, "vllm_tensor_parallel_size": 2}


def main(workshop: Path) -> None:
    adapt_vllm_to_cpu()
    trainer: Any = greedy_trainer(workshop, **VLLM)
    rank = trainer.accelerator.process_index

    def some(batch: SampledBatch) -> list[int]:
        """All but one on the first rank; on the other all but two, and none at the last end."""
        return batch.unfinished[1 + rank :] if batch.limit < 12 or rank == 0 else []

    seen = {"at once": sampled(trainer)}
    for name, go_on in (("all go on", lambda batch: batch.unfinished), ("some", some)):
        with trainer.rollouts.in_stages(Stages((3, 9, 12), go_on)):
            seen[name] = sampled(trainer)
    tell(seen)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
