"""A short run of the recipe program with colocated vLLM, with what every rank saw; runs under `accelerate launch`.

Around each rollout the engine is asked what it thinks of completions that it writes, and the policy is asked about the
same: before TRL hands the weights over the two differ, afterwards they must not.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from tests.support import training
from tests.support.fsdp_on_cpu import let_cpus_count
from tests.support.ranks import write_down

VLLM = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 160, "eval_steps": 2, "max_steps": 4}


class ComparedTrainer(training.WatchedTrainer):
    """Writes down how far engine and policy are apart."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        before = self._largest_gap(prompt_ids)
        output = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        gaps = {"step": self.state.global_step, "before": before, "after": self._largest_gap(prompt_ids)}
        self.__dict__.setdefault("gaps", []).append(gaps)
        return output

    @torch.no_grad()
    def _largest_gap(self, prompt_ids: list[list[int]]) -> float:
        """Largest difference of a sampled token's log-probability between engine and policy."""
        _, completions, logprobs, _ = self.vllm_generation.generate(prompt_ids, None, num_generations=1)
        training_mode = self.model.training
        gaps = []
        for prompt, completion, theirs in zip(prompt_ids, completions, logprobs, strict=True):
            ids = torch.tensor([[*prompt, *completion]])
            ours = self.model.eval()(ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            ours = ours.gather(1, torch.tensor(completion).unsqueeze(1))
            gaps.append((ours - torch.tensor(theirs)).abs().max().item())
        self.model.train(training_mode)
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # a backward pass would do so
        return max(gaps)


def results(trainer: Any) -> dict[str, Any]:
    return {
        "ranks": trainer.accelerator.num_processes,
        "engine": trainer.accelerator.distributed_type.value,
        "batches": [asdict(batch) for batch in trainer.batches],
        "gaps": trainer.gaps,
        "sampling_seed": torch.initial_seed(),
    }


if __name__ == "__main__":
    let_cpus_count()
    trainer = training.train(Path(sys.argv[1]), ComparedTrainer)
    write_down(results(trainer), Path(sys.argv[2]))
