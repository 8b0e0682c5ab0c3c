"""Finished rows leave the batch: the same completions as `generate` gives, from fewer rows in its forward passes."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from test_generation import PROMPTS
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig

from tests.support.staged_rollouts import greedy_trainer, sampled, save_model
from tests.support.tiny_models import build_model, build_tokenizer
from tinyzero_trl.generation import compacting, interception
from tinyzero_trl.generation.compacting import Generation, can_compact, compacting_generate
from tinyzero_trl.generation.interception import compacting_batches

LIMIT = 40


@pytest.fixture
def model() -> Any:
    return build_model(build_tokenizer())


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    tokenizer = build_tokenizer()
    tokenizer.padding_side = "left"
    encoded = tokenizer(PROMPTS * 4, return_tensors="pt", padding=True)
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def settings(model: Any, inputs: dict[str, torch.Tensor]) -> GenerationConfig:
    """Greedy settings under which some rows end early and others never: no end token occurs in the first row."""
    config = {"max_new_tokens": LIMIT, "do_sample": False, "pad_token_id": 0}
    width = inputs["input_ids"].size(1)
    written = model.generate(**inputs, generation_config=GenerationConfig(**config, eos_token_id=1))[:, width:]
    free = set(written[0].tolist())
    ends = {next((token for token in row[3:].tolist() if token not in free), None) for row in written[1 : len(PROMPTS)]}
    return GenerationConfig(**config, eos_token_id=sorted(ends - {None}))


def rows_computed(model: Any, call: Any) -> tuple[Any, int]:
    """What `call()` returns, and the rows of all forward passes that it made."""
    rows = 0

    def count(module: Any, args: Any, kwargs: Any) -> None:
        nonlocal rows
        rows += kwargs["input_ids"].size(0)

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        return call(), rows
    finally:
        handle.remove()


def test_greedy_completions_are_those_of_generate_from_fewer_rows(model: Any, inputs: Any) -> None:
    config = settings(model, inputs)
    stock, stock_rows = rows_computed(model, lambda: model.generate(**inputs, generation_config=config))
    ours, our_rows = rows_computed(model, lambda: compacting_generate(model, **inputs, generation_config=config))
    assert torch.equal(stock, ours)
    finished = torch.isin(stock[:, inputs["input_ids"].size(1) :], torch.tensor(config.eos_token_id)).any(1)
    assert 0 < finished.sum() < len(finished), "some rows must end, and some must not"
    assert our_rows < 0.7 * stock_rows


def test_padding_by_an_end_token_belongs_to_no_completion(
    model: Any, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with models that pad with their end token: a row that has ended waits in the batch until others have."""
    monkeypatch.setattr(compacting, "FINISHED_FRAC_OF_A_CALL", 1.0)
    config, width = settings(model, inputs), inputs["input_ids"].size(1)
    ends = set(config.eos_token_id)
    expected = []
    for ids in model.generate(**inputs, generation_config=config)[:, width:].tolist():
        length = next((place + 1 for place, token in enumerate(ids) if token in ends), LIMIT)
        expected.append(ids[:length])
    config.pad_token_id = config.eos_token_id[0]
    generation = Generation(model, **inputs, generation_config=config)
    generation.run(LIMIT)
    assert generation.completion_ids() == expected
    assert generation.finished.tolist() == [ids[-1] in ends for ids in expected]


def test_sampling_follows_the_same_distribution(model: Any, inputs: Any) -> None:
    """The chance of the second token given the first, after rows have left and without."""
    row = {name: tensor[:1].expand(3000, -1) for name, tensor in inputs.items()}
    config = GenerationConfig(max_new_tokens=3, do_sample=True, top_k=0, pad_token_id=0, eos_token_id=[1, 2, 3])
    width = row["input_ids"].size(1)
    torch.manual_seed(0)
    stock = model.generate(**row, generation_config=config)[:, width:]
    ours = compacting_generate(model, **row, generation_config=config)[:, width:]
    for position in range(3):
        counts = [torch.bincount(tokens[:, position], minlength=model.config.vocab_size) for tokens in (stock, ours)]
        expected = (counts[0] + counts[1]) / 2
        spread = ((counts[0] - expected) ** 2 / expected.clamp(min=1)).sum() * 2
        kinds = int((expected > 0).sum())
        assert spread < kinds + 5 * (2 * kinds) ** 0.5, f"chi-squared {spread:.0f} with {kinds} kinds of token"


def test_what_it_cannot_compact_goes_to_generate_as_it_is(
    model: Any, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(model, inputs)
    plain, _ = rows_computed(model, lambda: model.generate(**inputs, generation_config=config))
    with compacting_batches(model):
        same, rows = rows_computed(model, lambda: model.generate(**inputs, generation_config=config))
        _, all_rows = rows_computed(model, lambda: model.generate(**inputs, generation_config=config, top_k=5))
    assert torch.equal(plain, same)
    assert rows < 0.7 * all_rows
    assert "generate" not in vars(model), "the model is left as it was found"
    monkeypatch.setattr(interception, "is_deepspeed_zero3_enabled", lambda: True)
    with compacting_batches(model):
        _, rows_in_step = rows_computed(model, lambda: model.generate(**inputs, generation_config=config))
    assert rows_in_step == all_rows, "ranks that share weights must make the same passes"


@pytest.mark.parametrize(
    "option",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"num_beams": 2},
        {"begin_suppress_tokens": [3]},
        {"guidance_scale": 1.5},
        {"exponential_decay_length_penalty": (4, 1.1)},
        {"num_return_sequences": 2},
        {"min_new_tokens": 3},
        {"stop_strings": ["</answer>"]},
        {"max_time": 1.0},
        {"max_new_tokens": None},
    ],
    ids=str,
)
def test_only_plain_sampling_is_taken_apart(model: Any, option: dict[str, Any]) -> None:
    plain = {"max_new_tokens": 8, "do_sample": True, "use_cache": True, "num_beams": 1, "min_new_tokens": 0}
    assert can_compact(model, GenerationConfig(**plain))
    assert not can_compact(model, GenerationConfig(**plain | option))
    # `generate` takes from the model's own what the given one leaves open
    model.generation_config = GenerationConfig(do_sample=True, **option)
    left_open = {name: value for name, value in plain.items() if name not in option}
    assert "max_new_tokens" in option or not can_compact(model, GenerationConfig(**left_open))


def test_a_generate_of_the_models_class_is_called_as_it_is(model: Any, inputs: Any) -> None:
    """It need not know the arguments by which rows leave."""

    class Own(type(model)):  # type: ignore[misc]
        def generate(self, input_ids: Any, attention_mask: Any, generation_config: Any) -> Any:
            return super().generate(input_ids, attention_mask=attention_mask, generation_config=generation_config)

    assert not interception.has_own_generate(model)
    config, model.__class__ = settings(model, inputs), Own
    assert interception.has_own_generate(model)
    with compacting_batches(model):
        model.generate(**inputs, generation_config=config)


class _Casts(TorchDispatchMode):
    """Counts the entries that are cast from float32 to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ == "_to_copy" and kwargs.get("dtype") == torch.bfloat16:
            self.entries += args[0].numel() if args[0].dtype == torch.float32 else 0
        return func(*args, **kwargs)


def test_in_mixed_precision_no_token_casts_the_weights_or_the_cache_anew(tmp_path: Path) -> None:
    save_model(tmp_path)
    trainer = greedy_trainer(tmp_path, bf16=True, model_init_kwargs={"dtype": "float32"}, max_completion_length=64)
    trainer.model_wrapped = trainer.model = trainer.accelerator.prepare(trainer.model)
    trainer.generation_config.eos_token_id = 9_999  # which no token is, so that all rows reach the limit
    counts = []
    for limit in (8, 24, 40):
        trainer.generation_config.max_new_tokens = limit
        with _Casts() as casts:
            sampled(trainer)
        counts.append(casts.entries)
    early, late = ((after - before) / 16 for before, after in pairwise(counts))
    assert early == late, "later tokens have a longer cache"
    assert 0 < early < trainer.model.num_parameters() / 2
