"""Stock TRL and ours on the same completions; run under torchrun, it compares them on several ranks."""

import atexit
import dataclasses
import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from tests.support.tiny_models import tiny_config
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer

VOCABULARY, LONGEST_COMPLETION, GROUP_SIZE = 64, 24, 4
PROMPTS = ["w1 w2", "w3 w4 w5 w6 w7", "w8", "w9 w10 w11 w12 w13 w14 w15 w16"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<end>": 1, "<unk>": 2} | {f"w{index}": index for index in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", padding_side="left"
    )


@functools.cache
def tiny_model_path(tied_embeddings: bool = False) -> str:
    """TRL loads the reference model by path, so the policy must have one too."""
    path = tempfile.mkdtemp(prefix="tiny-qwen2-")
    atexit.register(shutil.rmtree, path)
    torch.manual_seed(0)
    config = tiny_config(VOCABULARY, hidden=32, positions=64, eos=1, pad=0, tied=tied_embeddings)
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


class FixedRollouts:
    """The same completions on every construction: one long row in four, some without end token, unequal by rank.

    `ranks` above 1 is for a single process: it gets the rows that so many ranks would have, one after the other.
    """

    def __init__(self, with_tools: bool = False, ranks: int = 1) -> None:
        self.with_tools = with_tools
        self.ranks = ranks
        self.rollouts = 0

    def __call__(self, prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        first, share = trainer.accelerator.process_index, len(prompts) // self.ranks
        drawn = [self._drawn(share, first + rank, len(trainer.processing_class), trainer) for rank in range(self.ranks)]
        self.rollouts += 1
        completions, logprobs = ([row for rows in column for row in rows] for column in zip(*drawn, strict=True))
        output: dict[str, Any] = {
            "prompt_ids": trainer.processing_class(prompts).input_ids,
            "completion_ids": completions,
            "logprobs": logprobs,
        }
        if self.with_tools:
            output["env_mask"] = [[int(place % 3 > 0) for place in range(len(ids))] for ids in completions]
        return output

    def _drawn(self, rows: int, rank: int, vocabulary: int, trainer: GRPOTrainer) -> tuple[list[Any], list[Any]]:
        generator = torch.Generator().manual_seed(1000 * self.rollouts + rank)

        def draw(low: int, high: int, count: int = 1) -> list[int]:
            return torch.randint(low, high, (count,), generator=generator).tolist()

        lengths = [draw(17, LONGEST_COMPLETION)[0] if draw(0, 4)[0] == 0 else draw(1, 6)[0] for _ in range(rows)]
        end = trainer.processing_class.eos_token_id
        completions = [[*draw(3, vocabulary, length), end] for length in lengths]
        return completions, [(torch.rand(len(ids), generator=generator) - 4).tolist() for ids in completions]


def half_of_the_groups_flat(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that varies with the completion in every other group and is the same in the rest."""
    return [1.0 if place // GROUP_SIZE % 2 == 0 else float(sum(ids) % 11) for place, ids in enumerate(completion_ids)]


def only_the_first_of_two_ranks_learns(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The same reward for all rows of the second rank, which are the second half where one process has them all."""
    state, rows = PartialState(), len(completion_ids)
    learned = rows // 2 if state.num_processes == 1 else rows * (state.process_index == 0)
    return [float(sum(ids) % 11) for ids in completion_ids[:learned]] + [1.0] * (rows - learned)


def nothing_to_learn(prompts: list[str], **_: Any) -> list[float]:
    return [1.0] * len(prompts)


def train(
    trainer_class: type[GRPOTrainer],
    *,
    reward: Callable[..., list[float]] | str = half_of_the_groups_flat,
    with_tools: bool = False,
    optimizer_steps: int = 3,
    peft_config: Any = None,
    model: str | None = None,
    as_ranks: int = 1,
    **settings: Any,
) -> GRPOTrainer:
    """Train on placed rollouts; the tiny model, unless the folder of another is given.

    `reward` may be the name of a function of this module.
    """
    defaults: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "num_generations": GROUP_SIZE,
        "max_completion_length": LONGEST_COMPLETION,
        "max_steps": optimizer_steps,
        "learning_rate": 0.05,
        "max_grad_norm": 0.0,  # clipping would hide a gradient of the wrong size
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "temperature": 0.9,
        "window_strategy": "fixed",  # the only one under a rollout_func
        "scale_rewards": "group",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "seed": 3,
    }
    if issubclass(trainer_class, AdaptiveGRPOTrainer):
        config = AdaptiveGRPOConfig(**(defaults | settings))
    else:
        known = {field.name for field in dataclasses.fields(GRPOConfig)}
        config = GRPOConfig(**{name: value for name, value in (defaults | settings).items() if name in known})
    trainer = trainer_class(
        model=model or tiny_model_path(),
        reward_funcs=globals()[reward] if isinstance(reward, str) else reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 8}),
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left") if model else tiny_tokenizer(),
        rollout_func=FixedRollouts(with_tools, as_ranks),
        peft_config=peft_config,
    )
    trainer.train()
    return trainer


def parameters(trainer: GRPOTrainer) -> dict[str, torch.Tensor]:
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def differences(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> list[float]:
    """Largest difference in each parameter, relative to its largest entry."""
    return [((some[name] - others[name]).abs().max() / others[name].abs().max()).item() for name in others]


def loss_figures(trainer: GRPOTrainer) -> list[dict[str, float]]:
    """What the loss logged of every step."""
    lines = [line for line in trainer.state.log_history if "loss" in line]
    return [
        {name: line[name] for name in line if name in ("loss", "entropy", "kl") or name.startswith("clip_ratio/")}
        for line in lines
    ]


def compare(**settings: Any) -> dict[str, Any]:
    """How far ours ends from stock TRL at worst, how far stock TRL has come at the median, and what ours logged."""
    start = dict(Qwen2ForCausalLM.from_pretrained(tiny_model_path()).named_parameters())
    stock = parameters(train(GRPOTrainer, **settings))
    ours = train(AdaptiveGRPOTrainer, **settings)
    return {
        "difference": max(differences(parameters(ours), stock)),
        "distance": median(differences(start, stock)),
        "figures": loss_figures(ours),
    }


if __name__ == "__main__":
    results = [compare(**settings) for settings in json.loads(sys.argv[1])]
    if PartialState().is_main_process:
        print(json.dumps({"ranks": PartialState().num_processes, "results": results}))
