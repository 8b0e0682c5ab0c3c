"""A rollout that pauses gives the same completions on each of TRL's engines; the recipe alone says how to sample."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from tests.support.ranks import run_on_ranks
from tests.support.staged_rollouts import greedy_trainer, sampled, save_model, staged, trainer_of
from tests.support.tiny_models import BY_BATCHES, build_model, build_tokenizer
from tests.support.training import WatchedTrainer, train, write_recipe
from tinyzero_trl import AdaptiveGRPOTrainer
from tinyzero_trl.generation.engine import SampledBatch
from tinyzero_trl.generation.stages import Stages
from tinyzero_trl.models.loading import load_tokenizer
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.runs.records import read_run
from tinyzero_trl.training.rollout.rollouts import Rollouts

ONE_ROLLOUT = {"max_steps": 1, "save_strategy": "no", "window_strategy": "fixed"}


def completions(trainer: Any) -> list[list[int]]:
    return [ids for batch in trainer.batches for ids in batch.ids]


BY_VLLM = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 160}
WAYS = [
    pytest.param({}, id="generate"),
    pytest.param(BY_BATCHES, id="continuous", marks=pytest.mark.slow),
    pytest.param(BY_VLLM, id="vllm", marks=[pytest.mark.vllm, pytest.mark.slow]),
]


@pytest.fixture(scope="module", params=WAYS)
def greedy(request: Any, tmp_path_factory: pytest.TempPathFactory) -> AdaptiveGRPOTrainer:
    workshop = tmp_path_factory.mktemp("stages")
    save_model(workshop)
    return greedy_trainer(workshop, **request.param)


def test_stages_in_which_all_go_on_give_the_same_completions(greedy: AdaptiveGRPOTrainer) -> None:
    whole = sampled(greedy)
    parts, seen = staged(greedy, (2, 9, 12, 16, 40), leaving=0)
    assert parts == whole and [batch.limit for batch in seen] == [2, 9, 12]
    assert {9, 10, 16} <= {len(ids) for ids in whole}, "completions must end at the end of a stage, within one, and not"
    for batch in seen:
        assert {len(batch.completion_ids[row]) for row in batch.unfinished} == {batch.limit}
        for ours, theirs, finished in zip(batch.completion_ids, whole, batch.finished, strict=True):
            assert ours == theirs[: len(ours)] and finished == (ours == theirs)


def test_completions_that_stay_behind_are_cut(greedy: AdaptiveGRPOTrainer) -> None:
    whole, (parts, seen) = sampled(greedy), staged(greedy, (3, 6), leaving=2)
    for ours, theirs in zip(parts, whole, strict=True):
        assert ours == theirs[: len(ours)] and (len(ours) == len(theirs) or len(ours) in (3, 6))
    assert len(seen) == 2 and sum(len(ours) < len(theirs) for ours, theirs in zip(parts, whole, strict=True)) == 4
    assert sampled(greedy) == whole, "the next rollout has its full length again"


def test_a_stop_token_of_vllm_ends_a_completion(tmp_path: Path) -> None:
    trainer = trainer_of(build_model(build_tokenizer()), tmp_path)
    end, stop, other = trainer.processing_class.eos_token_id, 5, 6
    for stops, ends in ((None, {end}), ([stop], {end, stop})):
        trainer.args.generation_kwargs = {"stop_token_ids": stops}
        rollouts = Rollouts(trainer)
        assert {last for last in (end, stop, other) if not rollouts.ends.is_cut([3, last])} == ends
        assert set(rollouts._sampling(1).end_token_ids) == ends, "where a stage asks which completions have finished"


def test_whoever_decides_may_sample(greedy: AdaptiveGRPOTrainer) -> None:
    whole, between = sampled(greedy), []

    def go_on(batch: SampledBatch) -> list[int]:
        between.append(sampled(greedy))
        return batch.unfinished

    with greedy.rollouts.in_stages(Stages((3, 9), go_on)):
        assert sampled(greedy) == whole
        assert between == [whole, whole]
        assert sampled(greedy) == whole and len(between) == 2, "these stages were of one batch"


def test_training_goes_on_where_a_rollout_has_paused(tmp_path: Path) -> None:
    """The window is the limit of the last stage, and completions that stayed behind count as cut."""

    class Pausing(WatchedTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            with self.rollouts.in_stages(Stages((4,), lambda batch: batch.unfinished[1:])):
                return super()._generate_and_score_completions(inputs)

    trainer = train(write_recipe(tmp_path, **ONE_ROLLOUT, window_max=12), Pausing)
    [batch] = [batch for batch in trainer.batches if batch.training]
    cut = [length for length, truncated in zip(batch.lengths, batch.truncated, strict=True) if truncated]
    assert sorted(cut)[0] == 4 and set(cut) == {4, 12}
    [line] = read_run(tmp_path / "run").metrics
    assert line["completion/truncated_frac"] == len(cut) / len(batch.lengths)


@pytest.mark.slow
@pytest.mark.vllm
def test_ranks_that_share_an_engine_wait_for_each_other(tmp_path: Path) -> None:
    """In each stage another number of completions goes on, and on one of the ranks none."""
    save_model(tmp_path)
    for rank in run_on_ranks(2, "stages_by_ranks", str(tmp_path), TORCH_COMPILE_DISABLE="1"):
        assert rank["all go on"] == rank["at once"]
        assert [len(ours) < len(theirs) for ours, theirs in zip(rank["some"], rank["at once"], strict=True)].count(True)
        for ours, theirs in zip(rank["some"], rank["at once"], strict=True):
            assert ours == theirs[: len(ours)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"use_vllm": True, "vllm_mode": "server"},
            "vllm_mode: 'server' does not sample in stages; set",
        ),
        ({"use_vllm": True, "vllm_enable_sleep_mode": True}, "vllm_enable_sleep_mode: true puts vLLM to sleep between"),
        (
            {"generation_kwargs": {"num_beams": 2}},
            "generation_kwargs: num_beams 2 does not sample in",
        ),
        (
            {"generation_kwargs": {"min_new_tokens": 5}},
            "min_new_tokens 5 would start anew in each stage; remove it, or",
        ),
        (
            {"use_vllm": True, "generation_kwargs": {"frequency_penalty": 0.5}},
            "generation_kwargs: frequency_penalty 0.5 would start anew in each",
        ),
        (
            {"use_vllm": True, "vllm_structured_outputs_regex": "a+"},
            "vllm_structured_outputs_regex: 'a[+]' would start anew in each stage",
        ),
    ],
)
def test_what_cannot_pause_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    trainer = trainer_of(build_model(build_tokenizer()), tmp_path)
    for name, value in fields.items():
        setattr(trainer.args, name, value)
    with pytest.raises(ValueError, match=message):
        trainer.rollouts.check_stages(trainer.model)


def test_continuous_batching_may_not_cast_the_weights_for_good(tmp_path: Path) -> None:
    """TRL casts them to the precision of the computation, and the optimizer would go on with what is left of them."""
    half = {"bf16": True, **BY_BATCHES}
    with pytest.raises(
        ValueError, match="true with bf16: true casts the float32 weights for good at the first rollout"
    ):
        trainer_of(build_model(build_tokenizer()), tmp_path, **half)
    recipe = write_recipe(tmp_path, **half)
    for weights in (tmp_path / "model").glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(ValueError, match="use_transformers_continuous_batching: true with bf16: true casts"):
        train(recipe)
    trainer_of(build_model(build_tokenizer()).to(torch.bfloat16), tmp_path, **half)


@pytest.mark.slow
def test_trl_still_casts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the refusal is no longer needed."""
    monkeypatch.setattr(f"{Rollouts.__module__}.check_kept_precision", lambda *_, **__: None)
    trainer = trainer_of(build_model(build_tokenizer()), tmp_path, bf16=True, **BY_BATCHES)
    sampled(trainer)
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.bfloat16}


# --- what shapes sampling -----------------------------------------------------------------------------------------


OWN = [{"min_p": 0.9}, {"typical_p": 0.1}, {"no_repeat_ngram_size": 1}, {"max_length": 12}, {"min_new_tokens": 12}]


@pytest.mark.parametrize("own", OWN, ids=str)
def test_the_models_own_settings_sample_nothing(own: dict[str, Any], tmp_path: Path, caplog: Any) -> None:
    model = build_model(build_tokenizer())
    plain = sampled(trainer_of(model, tmp_path))
    model.generation_config = GenerationConfig(eos_token_id=model.config.eos_token_id, **own)
    with caplog.at_level("INFO", logger="tinyzero_trl"):
        trainer = trainer_of(model, tmp_path)
    assert sampled(trainer) == plain
    assert trainer.model.generation_config.to_diff_dict().items() >= own.items(), "it is saved as it came"
    [(name, value)] = own.items()
    said = [record.getMessage() for record in caplog.records if "generation_config.json" in record.getMessage()]
    remedy = f"{name}: {value}" if name == "min_p" else f"generation_kwargs: {{'{name}': {value}}}"
    if name == "max_length":
        assert said == [], "the window decides how long completions are"
    else:
        [line] = said
        assert f"sets {name}, which" in line and line.endswith(remedy)
    if name in ("min_p", "typical_p"):  # and with what the line says, it does
        wanted = {"min_p": value} if name == "min_p" else {"generation_kwargs": {name: value}}
        assert sampled(trainer_of(model, tmp_path, **wanted)) != plain


def test_a_generate_of_the_users_own_is_called(tmp_path: Path) -> None:
    model, seen = build_model(build_tokenizer()), []
    stock = model.generate

    def generate(**kwargs: Any) -> torch.Tensor:
        seen.append(sorted(kwargs))
        return stock(**kwargs)

    model.generate = generate
    trainer = trainer_of(model, tmp_path)
    assert len(sampled(trainer)) == 8
    assert seen == [["attention_mask", "generation_config", "input_ids"]]
    assert vars(model)["generate"] is generate
    with pytest.raises(ValueError, match="its own generate does not sample in stages"):
        trainer.rollouts.check_stages(trainer.model)


def test_stop_strings_end_completions(tmp_path: Path) -> None:
    common = {**ONE_ROLLOUT, "max_completion_length": 60, "model_name_or_path": "embedded"}
    by_field = train(write_recipe(tmp_path, "field", **common, stop_at_answer=True))
    by_kwargs = train(write_recipe(tmp_path, "kwargs", **common, generation_kwargs={"stop_strings": "</answer>"}))
    assert completions(by_field) == completions(by_kwargs)
    end = by_field.processing_class.convert_tokens_to_ids("</answer>")
    assert any(ids[-1] == end for ids in completions(by_kwargs))
    assert all(end not in ids[:-1] for ids in completions(by_kwargs))
    assert by_kwargs.args.generation_kwargs == {"stop_strings": "</answer>"}, "config.yaml says what was asked for"


@pytest.mark.parametrize("from_file", [True, False])
def test_a_tokenizer_without_an_end_token_takes_the_models(from_file: bool, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    model, end = build_model(tokenizer), tokenizer.eos_token_id
    tokenizer.eos_token = tokenizer.pad_token = None
    if from_file:
        recipe = write_recipe(tmp_path, **ONE_ROLLOUT)
        tokenizer.save_pretrained(tmp_path / "model")
        trainer: Any = train(recipe)
        assert any(ids[-1] == end for ids in completions(trainer))
    else:
        trainer = trainer_of(model, tmp_path, processing_class=tokenizer)
        assert any(ids[-1] == end for ids in sampled(trainer))
    assert trainer.eos_token_ids == [end] and trainer.processing_class.eos_token_id == end


def test_without_any_end_token_nothing_is_trained(tmp_path: Path, capsys: Any) -> None:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    tokenizer.eos_token = model.generation_config.eos_token_id = model.config.eos_token_id = None
    with pytest.raises(ValueError, match=r"neither its tokenizer nor .* has an end token.*; set eos_token in"):
        trainer_of(model, tmp_path, processing_class=tokenizer)


def test_a_stop_string_of_special_tokens_ends_a_completion(tmp_path: Path) -> None:
    """TRL's text has no special tokens; what was sampled has."""
    tokenizer = load_tokenizer(resolve_model("embedded"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<stop>"]})
    options = {"generation_kwargs": {"stop_strings": ["<stop>", "1 2"]}}
    rollouts = trainer_of("embedded", tmp_path, processing_class=tokenizer, **options).rollouts
    ends, goes_on = tokenizer("3 <stop>")["input_ids"], tokenizer("3 4")["input_ids"]
    assert "stop" not in tokenizer.decode(ends, skip_special_tokens=True)
    assert not rollouts.ends.is_cut(ends) and rollouts.ends.is_cut(goes_on)
    assert not rollouts.ends.is_cut(tokenizer("1 2")["input_ids"])
