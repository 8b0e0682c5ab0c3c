"""Weights handed over to vLLM: log-probabilities of engine and model on the same completions, before and after."""

import argparse
import tempfile
from importlib.util import find_spec
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from gpu.part import Size, SkippedError, prompts_of_countdown, run_part
from tinyzero_trl.models.loading import default_device
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.trainer import AdaptiveGRPOTrainer


class ComparedTrainer(AdaptiveGRPOTrainer):
    """Writes down how far engine and model are apart around each rollout; TRL hands weights over in between."""

    gaps: list[dict[str, float]]

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        before = largest_gap(self, prompt_ids[:16])
        output = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        self.gaps.append({"before": before, "after": largest_gap(self, prompt_ids[:16])})
        return output


@torch.no_grad()
def largest_gap(trainer: Any, prompt_ids: list[list[int]]) -> float:
    """Largest difference of a sampled token's log-probability between engine and policy."""
    _, completions, logprobs, _ = trainer.vllm_generation.generate(prompt_ids, None, num_generations=1)
    training, gaps = trainer.model.training, []
    with trainer.accelerator.autocast():
        for prompt, completion, theirs in zip(prompt_ids, completions, logprobs, strict=True):
            ids = torch.tensor([[*prompt, *completion]], device=trainer.accelerator.device)
            ours = trainer.model.eval()(ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            ours = ours.gather(1, ids[0, len(prompt) :, None])
            gaps.append((ours - torch.tensor(theirs, device=ours.device)).abs().max().item())
    trainer.model.train(training)
    return max(gaps)


def measure(args: argparse.Namespace, size: Size) -> dict[str, Any]:
    """The gaps around each of three rollouts; the second and third come after steps that moved the weights."""
    if find_spec("vllm") is None:
        raise SkippedError("vLLM is not installed")
    if default_device().type != "cuda":
        raise SkippedError("the tests compare vLLM on a CPU")
    path, folder = resolve_model("embedded"), tempfile.mkdtemp(prefix="gpu-check-")
    config = AdaptiveGRPOConfig(
        output_dir=folder,
        max_steps=3,
        per_device_train_batch_size=64,
        num_generations=8,
        max_completion_length=128,
        learning_rate=1e-2,  # so that weights that stay behind are seen
        bf16=True,
        use_vllm=True,
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=0.3,
        vllm_max_model_length=512,
        window_strategy="fixed",
        save_strategy="no",
        report_to=[],
    )
    trainer = ComparedTrainer(
        model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        reward_funcs=lambda completion_ids, **_: [float(len(ids) % 2) for ids in completion_ids],
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts_of_countdown(64)}),
        processing_class=AutoTokenizer.from_pretrained(path, padding_side="left"),
    )
    trainer.gaps = []
    trainer.train()
    return {"gaps": trainer.gaps}


if __name__ == "__main__":
    run_part(__doc__, measure)
