"""A random Qwen2 of a few thousand weights, and problems that chance can solve with its vocabulary."""

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl.chat_template_utils import qwen3_template

PROBLEMS = [
    ((1, 2, 3), 9),
    ((3, 2, 1), 9),
    ((1, 2, 3, 4), 10),
    ((2, 5, 4), 18),
    ((4, 1, 3, 2), 10),
    ((5, 2, 4), 18),
    ((7, 8, 9), 65),
    ((9, 9, 1, 1), 80),
    ((4, 2, 5), 18),
    ((2, 4, 1, 3), 10),
    ((2, 1, 3), 9),
]
_ANSWERS = ("(1 + 2) * 3", "1 + 2 + 3 + 4", "(4 + 5) * 2", "7 * 8 + 9", "9 * 9 - 1", "1 + 2 + 3")
THINKING = {**qwen3_template, "start_anchor": "<|assistant|>"}
"""A response template: takes a turn apart into reasoning, between <think> and </think>, and content."""

_CHAT = "{% for m in messages %}<|{{ m.role }}|> {{ m.content }} {% endfor %}<|assistant|>"


BY_BATCHES = {
    "use_transformers_continuous_batching": True,
    "transformers_continuous_batching_config": {"num_blocks": 64, "block_size": 16, "max_batch_tokens": 64},
}
"""Continuous batching with a cache for a tiny model; of itself it fills the memory of the machine, for a minute."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Whole answers and single digits are tokens; every other word is unknown."""
    words = ["<unk>", *"0123456789"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True)]
    )
    answers = [f"<answer> {answer} </answer>" for answer in _ANSWERS]
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (*answers, *roles)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<end>",
        pad_token="<pad>",
        chat_template=_CHAT,
    )


def tiny_config(vocabulary: int, *, hidden: int, positions: int, eos: int, pad: int, tied: bool = False) -> Qwen2Config:
    """Two layers of two heads, with weights large enough for uneven distributions."""
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 3 // 2,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Qwen2ForCausalLM:
    """With heads of 32, vLLM's smallest."""
    ends = {"eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    config = tiny_config(len(tokenizer), hidden=64, positions=512, **ends)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config).eval()


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write model and tokenizer to `folder`."""
    tokenizer = build_tokenizer()
    build_model(tokenizer, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_problems(file: Path) -> Path:
    """Write `PROBLEMS` as JSON lines."""
    rows = [{"nums": numbers, "target": target} for numbers, target in PROBLEMS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
