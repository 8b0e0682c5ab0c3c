"""A decoding step makes the host wait for the device once, for `generate`'s question whether all rows have ended."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from test_decoding import rows_computed, settings
from transformers import AutoTokenizer, GenerationConfig, MistralConfig, MistralForCausalLM
from transformers.generation import utils as generation_utils

from tests.support.staged_rollouts import PROMPTS, greedy_trainer, save_model
from tests.support.synchronisations import synchronisations
from tests.support.tiny_models import build_model, build_tokenizer
from tinyzero_trl.generation.compacting import compacting_generate
from tinyzero_trl.generation.completions import generate_completions
from tinyzero_trl.generation.engine import EngineSetup, Sampling
from tinyzero_trl.generation.stages import Stages
from tinyzero_trl.generation.transformers_engine import TransformersEngine
from tinyzero_trl.models.names import resolve_model

ONCE = ({"_local_scalar_dense": 1.0}, {"is_nonzero": 1.0})  # what `bool` does, the second in inference mode
NEVER = 9_999  # an end token that no model here has


def per_token(sample: Callable[[int], Any]) -> dict[str, float]:
    """Waits for each further token, by what waits; `sample(limit)` samples rows that all reach the limit."""
    counts: list[Counter[str]] = []
    for limit in (6, 14):
        with synchronisations() as counted:
            sample(limit)
        counts.append(counted)
    found = {name: (counts[1][name] - counts[0][name]) / 8 for name in counts[0] | counts[1]}
    return {name: waits for name, waits in found.items() if waits}


def inputs(prompts: list[str]) -> dict[str, torch.Tensor]:
    tokenizer = build_tokenizer()
    tokenizer.padding_side = "left"
    encoded = tokenizer(prompts, return_tensors="pt", padding=True)
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def with_sliding_window() -> Any:
    config = build_model(build_tokenizer()).config
    sizes = {name: getattr(config, name) for name in ("vocab_size", "hidden_size", "intermediate_size")}
    heads = {
        name: getattr(config, name) for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    }
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=24)).eval()


@pytest.mark.parametrize(
    ("waits", "operation"),
    [
        (1, lambda x: x.max().item()),
        (1, lambda x: bool((x > 0).any())),
        (1, lambda x: x.tolist()),
        (1, lambda x: x.cpu()),
        (1, lambda x: x.numpy()),
        (1, lambda x: x[x > 0]),
        (1, lambda x: (x > 0).nonzero()),
        (1, lambda x: x.unique()),
        (1, lambda x: torch.equal(x, x)),
        (1, lambda x: torch.tensor([1, 2])),
        (1, lambda x: x.new_tensor([1, 2])),
        (1, lambda x: x.repeat_interleave(x)),
        (0, lambda x: torch.where(x > 0, 5, x)[torch.arange(2)].cumsum(0)),
        (0, lambda x: torch.isin(x, x) | (x.float().mean() >= 0.125)),
    ],
)
def test_what_waits_is_counted(waits: int, operation: Callable[[torch.Tensor], Any]) -> None:
    values = torch.arange(3)
    with synchronisations() as counted:
        operation(values)
    assert counted.total() == waits


@pytest.mark.parametrize("prompts", [["1 2 3", "4 5 6"], ["1", "1 2 3"]], ids=["unpadded", "padded"])
@pytest.mark.parametrize(
    "sampled", [{"do_sample": False}, {"do_sample": True, "top_k": 5, "top_p": 0.9, "min_p": 0.01}]
)
@pytest.mark.parametrize(
    "build", [lambda: build_model(build_tokenizer()), with_sliding_window], ids=["full", "sliding"]
)
def test_a_token_waits_once_and_no_more_often_than_with_generate(
    prompts: list[str], sampled: dict[str, Any], build: Callable[[], Any]
) -> None:
    model, batch = build(), inputs(prompts)

    def config(limit: int) -> GenerationConfig:
        return GenerationConfig(max_new_tokens=limit, pad_token_id=0, eos_token_id=NEVER, **sampled)

    def ours(limit: int) -> None:
        ids = compacting_generate(model, **batch, generation_config=config(limit))
        assert ids.size(1) == batch["input_ids"].size(1) + limit

    stock = per_token(lambda limit: model.generate(**batch, generation_config=config(limit)))
    assert per_token(ours) in ONCE
    assert sum(stock.values()) >= 1
    if Version(transformers.__version__) < Version("5.24"):  # which no longer asks whether rows are padded
        assert sum(stock.values()) > 1


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize("stops", [(), ("</answer>", "stop")])
def test_an_engine_waits_once_for_a_token(seeded: bool, stops: tuple[str, ...]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("embedded"))
    engine = TransformersEngine(EngineSetup(tokenizer, resolve_model("embedded")))
    prompts = [tokenizer(text)["input_ids"] for text in ("1", "1 2 3")]
    seeds = (3, 4) if seeded else None
    sampling = Sampling(temperature=0.01, end_token_ids=(NEVER,), stop_strings=stops, seeds=seeds)
    assert per_token(lambda limit: engine.start(prompts, sampling, limit)) in ONCE


def test_rows_that_leave_cost_a_few_waits_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of `generate` waits a few times before its first token; ours adds four, whatever rows and tokens."""
    model, batch = build_model(build_tokenizer()), inputs(PROMPTS * 4)
    config = settings(model, batch)
    with synchronisations() as one_token:
        model.generate(**batch, generation_config=GenerationConfig(**config.to_diff_dict() | {"max_new_tokens": 1}))
    passes, calls, generate = 0, 0, type(model).generate

    def counted_generate(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return generate(*args, **kwargs)

    def counted_pass(*_: Any) -> None:
        nonlocal passes
        passes += 1

    monkeypatch.setattr(type(model), "generate", counted_generate)
    model.register_forward_pre_hook(counted_pass)
    with synchronisations() as counted:
        compacting_generate(model, **batch, generation_config=config)
    assert calls > 2, "rows must leave"
    assert counted.total() <= passes + calls * (one_token.total() + 4)


def test_a_rollout_of_the_trainer_waits_once_for_a_token(tmp_path: Path) -> None:
    """At once and in stages: the end of a stage waits a few times, however long the stage was."""
    save_model(tmp_path)
    trainer = greedy_trainer(tmp_path, max_completion_length=64)
    trainer.rollouts._end_tokens = frozenset({NEVER})
    trainer.generation_config.eos_token_id = NEVER
    prompt_ids = [trainer.processing_class(text)["input_ids"] for text in PROMPTS]

    def rollout(limit: int, ends: tuple[int, ...]) -> None:
        trainer.generation_config.max_new_tokens = limit
        with trainer.rollouts.in_stages(Stages(ends, lambda batch: batch.unfinished)):
            completion_ids, _ = trainer._generate_single_turn(prompt_ids, None, {}, 4)
        assert {len(ids) for ids in completion_ids} == {limit}

    assert per_token(lambda limit: rollout(limit, ())) in ONCE
    assert per_token(lambda limit: rollout(limit, (limit - 5,))) in ONCE


def test_no_token_is_taken_back_where_generate_looks_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Apple's GPUs `generate` samples a token more before it stops, where it can drop it again."""
    model, batch = build_model(build_tokenizer()), inputs(PROMPTS * 4)
    config = settings(model, batch)

    def seeded() -> Any:
        return generate_completions(model, build_tokenizer(), PROMPTS * 4, max_completion_length=30, temperature=1.0)

    expected, _ = rows_computed(model, lambda: compacting_generate(model, **batch, generation_config=config))
    expected_seeded = seeded()
    asked = generation_utils.DeferredStopCheck.is_supported

    class Event:
        def __init__(self, **_: Any) -> None: ...
        def record(self) -> None: ...
        def synchronize(self) -> None: ...

    def as_on_mps(_: Any, *others: Any, **options: Any) -> bool:
        return asked(torch.device("mps"), *others, **options)

    monkeypatch.setattr(generation_utils.DeferredStopCheck, "is_supported", staticmethod(as_on_mps))
    monkeypatch.setattr(torch, "Event", Event)
    assert torch.equal(compacting_generate(model, **batch, generation_config=config), expected)
    assert seeded() == expected_seeded
