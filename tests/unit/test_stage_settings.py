"""Which settings of `generate` give the same completions in stages as at once, and that the others are refused."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, SynthIDTextWatermarkingConfig, WatermarkingConfig

from tests.support.tiny_models import build_model, build_tokenizer
from tinyzero_trl.generation.compacting import Generation
from tinyzero_trl.training.preflight.stages import check_stage_settings

TOKENIZER = build_tokenizer()
PROMPTS = torch.tensor([[1, 2, 3, 4, 5], [5, 5, 5, 5, 6], [2, 9, 9, 1, 4], [7, 3, 7, 3, 7]])
SYNTH_ID = SynthIDTextWatermarkingConfig(keys=[654, 400, 836], ngram_len=3)


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model(TOKENIZER)


def completions(model: Any, limits: tuple[int, ...], **settings: Any) -> list[list[int]]:
    """Greedy, so that random numbers make no difference."""
    ends = {"pad_token_id": TOKENIZER.pad_token_id, "eos_token_id": TOKENIZER.eos_token_id}
    config = GenerationConfig(max_new_tokens=24, do_sample=False, **ends, **settings)
    generation = Generation(model, PROMPTS, torch.ones_like(PROMPTS), config)
    with torch.no_grad():
        for limit in limits:
            if left := (~generation.finished).nonzero().flatten().tolist():
                generation.keep(left)
                generation.run(limit)
    return generation.completion_ids()


def is_refused(**settings: Any) -> bool:
    args = SimpleNamespace(use_vllm=False, generation_kwargs=settings)
    try:
        check_stage_settings(args)
    except ValueError as refusal:
        [name] = settings
        assert f"generation_kwargs: {name} " in str(refusal) and "would start anew in each stage" in str(refusal)
        return True
    return False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("forced_eos_token_id", 5), ("exponential_decay_length_penalty", (3, 1.5)), ("guidance_scale", 1.5)),
        *(("encoder_repetition_penalty", 1.5), ("encoder_no_repeat_ngram_size", 2), ("guidance_scale", 0.0)),
        *(("begin_suppress_tokens", [3, 4, 5, 6, 7, 8]), ("watermarking_config", SYNTH_ID)),
        *(("watermarking_config", WatermarkingConfig(bias=2.5)), ("repetition_penalty", 1.5)),
        *(("no_repeat_ngram_size", 2), ("bad_words_ids", [[3], [4, 5]]), ("suppress_tokens", [3, 4])),
        *(("sequence_bias", {(3,): 2.0, (4, 5): 3.0}),),
    ],
    ids=str,
)
def test_what_differs_in_stages_is_refused_and_nothing_else(model: Any, name: str, value: Any) -> None:
    at_once = completions(model, (24,), **{name: value})
    in_stages = completions(model, (7, 15, 24), **{name: value})
    assert at_once != completions(model, (24,)) or in_stages != at_once, "the value must make a difference"
    assert is_refused(**{name: value}) == (in_stages != at_once)


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        *(("guidance_scale", 1, False), ("encoder_repetition_penalty", 1.0, False), ("min_new_tokens", 0, False)),
        *(("seed", None, False), ("seed", 0, True), ("repetition_detection", {"min_count": 2}, True)),
    ],
)
def test_a_setting_that_is_off_is_allowed(name: str, value: Any, refused: bool) -> None:
    assert is_refused(**{name: value}) == refused
