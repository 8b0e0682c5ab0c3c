"""An engine that lives outside the package samples in training, evaluation, grids and reports; and stages add up."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_generation import PROMPTS

from tests.support.tiny_models import PROBLEMS, build_model, build_tokenizer, save_tiny_model, write_problems
from tests.support.training import LONGEST, ROOT, train, write_recipe
from tinyzero_trl import Engine, register_engine
from tinyzero_trl.commands.main import main
from tinyzero_trl.generation.engine import EngineSetup, SampledBatch, Sampling
from tinyzero_trl.generation.prompts import encode_prompts
from tinyzero_trl.generation.registry import choose_engine, engine_class, make_engine
from tinyzero_trl.generation.stages import sample
from tinyzero_trl.generation.transformers_engine import TransformersEngine
from tinyzero_trl.models.loading import load_tokenizer
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.runs.records import read_run
from tinyzero_trl.tasks import countdown

MODULE = '''
"""One file of a user's: an engine that gives the same answer to every other prompt, and talks to the limit else."""

from tinyzero_trl.generation.engine import Engine, SampledBatch

ANSWER = "<answer> (1 + 2) * 3 </answer>"


class Replay(Engine):
    asked = []  # (rows, limit, has seeds, is training) of each call
    weights = []
    seeds = {}  # of the latest call with each limit

    def start(self, prompt_ids, sampling, limit):
        self.seeds[limit] = sampling.seeds
        self.asked.append((len(prompt_ids), limit, sampling.seeds is not None, self.setup.model is not None))
        tokenizer = self.setup.tokenizer
        answer = [*tokenizer(ANSWER)["input_ids"], tokenizer.eos_token_id]
        rows = range(len(prompt_ids))
        return SampledBatch(
            [list(prompt) for prompt in prompt_ids],
            [answer if row % 2 else tokenizer("7")["input_ids"] * limit for row in rows],
            [bool(row % 2) for row in rows],
            limit,
            sampling,
        )

    def update_weights(self, model):
        self.weights.append(sum(p.double().sum().item() for p in model.parameters()))
'''


@pytest.fixture
def replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The engine's class, in a module that only this test knows."""
    folder = tmp_path / "users"
    folder.mkdir()
    (folder / "users_engine.py").write_text(MODULE)
    package = folder / "users_engine-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: users-engine\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[tinyzero_trl.engines]\nreplay = users_engine:Replay\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    engine = engine_class("users_engine:Replay")
    engine.asked.clear(), engine.weights.clear()
    return engine


@pytest.mark.slow
def test_a_users_engine_samples_rollouts_and_evaluations(replay: Any, tmp_path: Path) -> None:
    options = {"max_steps": 2, "save_strategy": "no", "window_strategy": "phased", "window_phases": "[[0, 4], [1, 8]]"}
    trainer = train(write_recipe(tmp_path, engine="users_engine:Replay", **options))
    assert [set(batch.lengths) for batch in trainer.batches if batch.training] == [{2, 4}, {2, 8}]
    rows, limits, seeded, in_training = zip(*replay.asked, strict=True)
    assert set(limits) == {4, 8, LONGEST} and all(seeded) and all(in_training)
    assert rows == tuple(len(batch.lengths) for batch in trainer.batches)
    assert len(replay.weights) == 3 and len(set(replay.weights)) > 1, "once for each policy that sampled"
    run = read_run(tmp_path / "run")
    assert run.config["engine"] == "users_engine:Replay" and len(run.metrics) == 2
    assert run.metrics[0]["completion/truncated_frac"] == 0.5

    replay.asked.clear()
    data = str(write_problems(tmp_path / "problems.jsonl"))
    common = ["--model", str(tmp_path / "run"), "--data", data, "--max-completion-length", "12"]
    common += ["--include-trained"]  # both splits are the same
    assert main(["eval", *common, "--engine", "replay", "--out", str(tmp_path / "eval")]) == 0
    result = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert replay.asked == [(len(PROBLEMS), 12, True, False)]
    assert result["settings"]["engine"] == "replay" and 0 < result["acc"] < 1 and result["truncated_frac"] > 0.4

    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "report")]) == 0
    runs = {"replayed": {"recipe": str(tmp_path / "run.yaml"), "overrides": {"engine": "replay", "max_steps": 1}}}
    launch = [sys.executable, "-m", "tinyzero_trl.commands.train"]
    grid = {"output": str(tmp_path / "grid"), "seeds": [0], "launch": launch, "runs": runs}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    assert main(["ablate", str(tmp_path / "grid.yaml")]) == 0
    [finished] = (tmp_path / "grid").glob("*/*/summary.json")
    assert read_run(finished.parent).config["engine"] == "replay"


@pytest.mark.slow
def test_an_engine_samples_the_best_model_once_it_is_loaded(replay: Any, tmp_path: Path) -> None:
    """The step is that of the last model, which the engine has."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval/mean_length", "greater_is_better": False}
    options = {"max_steps": 2, "save_steps": 1, "eval_steps": 1, "save_total_limit": 3}
    trainer = train(write_recipe(tmp_path, engine="users_engine:Replay", **best, **options))
    assert trainer.state.best_global_step == 1, "equal figures: the first one is the best"
    trained = list(replay.weights)
    trainer.evaluate()
    assert replay.weights == [*trained, trained[1]] and trained[1] != trained[-1]


@pytest.mark.slow
def test_a_resumed_run_gives_an_engine_the_same_seeds(replay: Any, tmp_path: Path) -> None:
    schedule = {"window_strategy": "phased", "window_phases": "[[0, 4], [1, 8]]"}
    common = {"engine": "users_engine:Replay", "save_steps": 1, "eval_strategy": "no", **schedule}
    train(write_recipe(tmp_path, "whole", **common, max_steps=2))
    first, second = replay.seeds[4], replay.seeds[8]
    assert first != second and len(set(second)) == len(second)
    train(write_recipe(tmp_path, "parts", **common, max_steps=1))
    assert replay.seeds[4] == first
    replay.seeds.clear()
    train(write_recipe(tmp_path, "parts", **common, max_steps=2))
    assert replay.seeds[8] == second and 4 not in replay.seeds


def test_a_registered_name_is_known_and_no_other(replay: Any) -> None:
    register_engine("users")(replay)
    assert (engine_class("users"), choose_engine("users"), engine_class("replay")) == (replay, "users", replay)
    for taken in ("auto", "transformers", "vllm", "users", "a:b"):
        with pytest.raises(ValueError, match=f"the name '{taken}' is taken; choose another"):
            register_engine(taken)(TransformersEngine)
    with pytest.raises(ValueError, match=r"'other' is no Engine; derive the class from tinyzero_trl.Engine"):
        register_engine("other")(dict)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'magic' is unknown; use one of auto, transformers, vllm, .*replay.*:Class"):
        choose_engine("magic")
    for name in ("nowhere.at:All", "users_engine:Nothing", ".users_engine:Replay", "users_engine:"):
        with pytest.raises(ValueError, match=f"'{name}' cannot be imported .*Error: .*; give package.module:Class"):
            choose_engine(name)
    with pytest.raises(ValueError, match="'users_engine:ANSWER' is no Engine"):
        choose_engine("users_engine:ANSWER")


def test_the_engine_of_the_page_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "engines.md").read_text()
    (tmp_path / "my_engine.py").write_text(page.split("```python\n")[1].split("```")[0])
    monkeypatch.chdir(tmp_path)  # where a module that is named by its path is looked for
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    warm, plain = engine_of(engine_class("my_engine:Warm")), engine_of(TransformersEngine)
    assert engine_class("warm") is type(warm)
    seeds = tuple(range(len(prompts())))
    hotter = plain.start(prompts(), sampling_of(plain, temperature=1.5, seeds=seeds), 8)
    assert warm.start(prompts(), sampling_of(warm, seeds=seeds), 8).completion_ids == hotter.completion_ids


@pytest.mark.parametrize(
    ("field", "value"),
    [("use_vllm", True), ("use_transformers_continuous_batching", True), ("cache_implementation", "static")],
)
def test_what_a_users_engine_cannot_obey_is_refused(replay: Any, field: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"(engine.*contradicts {field}|{field}: .* has no effect on the engine)"):
        train(write_recipe(tmp_path, engine="users_engine:Replay", **{field: value}))


class Miscounting(Engine):
    """Returns one completion too few, or one without a token."""

    lengths: tuple[int, ...] | None = ()
    beyond = 0  # what it adds to the limit that it is given

    def start(self, prompt_ids: Any, sampling: Sampling, limit: int) -> SampledBatch:
        if self.lengths is None:
            return None  # type: ignore[return-value]
        rows = [[1] * length for length in self.lengths]
        return SampledBatch(list(prompt_ids), rows, [True] * len(rows), limit + self.beyond, sampling)


@pytest.mark.parametrize(
    ("lengths", "beyond", "message"),
    [
        ((2,), 0, "1 completions for 11"),
        ((0,) * 11, 0, "completions of 0 to 0 tokens for a limit of 12"),
        ((13,) * 11, 0, "completions of 13 to 13 tokens for a limit of 12"),
        ((13,) * 11, 5, "a batch with limit 17 for 12; pass the limit on"),
        (None, 0, "None; return a SampledBatch"),
    ],
)
def test_an_engine_that_returns_something_else_is_named(
    lengths: Any, beyond: int, message: str, tmp_path: Path, capsys: Any
) -> None:
    register_engine("miscounting")(Miscounting)
    Miscounting.lengths, Miscounting.beyond = lengths, beyond
    model, data = save_tiny_model(tmp_path / "model"), write_problems(tmp_path / "problems.jsonl")
    command = ["eval", "--model", str(model), "--data", str(data), "--max-completion-length", "12"]
    assert main([*command, "--engine", "miscounting", "--out", str(tmp_path / "out")]) == 2
    assert f"engine: Miscounting returned {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completion_ids": [np.array([3, 4])] * 2}, None),
        ({"completion_ids": torch.full((2, 5), 4), "finished": np.array([True, False])}, None),
        ({"completion_ids": ["text"] * 2}, r"completion_ids \['text', 'text'\]; return a list of token ids"),
        ({"completion_ids": [[3.0]] * 2}, r"completion_ids \[\[3.0\], \[3.0\]\]; return a list of token ids"),
        ({"completion_ids": [[-1]] * 2}, r"completion_ids \[\[-1\], \[-1\]\]; return a list of token ids"),
        ({"completion_ids": None}, "completion_ids None; return a list of token ids"),
        ({"finished": [True]}, "1 entries of finished for 2 prompts; return one for each"),
        ({"finished": None}, "finished None; return True or False for each prompt"),
        ({"finished": [True, False]}, "an unfinished completion of 2 tokens for a limit of 5; sample up to the limit"),
        ({"completion_ids": [[4, 3]] * 2}, r"a finished completion whose last token is 3; .* end token \(4\), or say"),
    ],
)
def test_what_an_engine_returns_is_made_into_lists_or_named(change: dict[str, Any], message: str | None) -> None:
    class Returning(Engine):
        def start(self, prompt_ids: Any, sampling: Sampling, limit: int) -> SampledBatch:
            batch = SampledBatch([[1], [2]], [[3, 4]] * 2, [True] * 2, limit, sampling)
            return replace(batch, **change)

    engine, sampling = Returning(EngineSetup(tokenizer=None, model_path="")), Sampling(end_token_ids=(4,))
    if message is None:
        sampled = sample(engine, [[1], [2]], sampling, 5)
        assert all(type(token) is int for ids in sampled.completion_ids for token in ids)
        assert all(type(each) is bool for each in sampled.finished)
        return
    with pytest.raises(ValueError, match=f"^engine: Returning returned {message}"):
        sample(engine, [[1], [2]], sampling, 5)


def test_an_engine_that_cannot_be_made_is_named() -> None:
    class WithoutSetup(TransformersEngine):
        def __init__(self) -> None:
            pass

    register_engine("without_setup")(WithoutSetup)
    with pytest.raises(
        ValueError, match=r"^engine: 'without_setup' cannot be made \(.*\); let __init__ take the setup"
    ):
        make_engine("without_setup", EngineSetup(tokenizer=None, model_path=""))


def test_an_engine_need_not_call_the_init_of_its_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation asks for its rows at once, and stages for its tokenizer."""
    monkeypatch.setattr("tinyzero_trl.generation.registry._REGISTERED", {})

    @register_engine("of_its_own")
    class OfItsOwn(Engine):
        def __init__(self, setup: EngineSetup) -> None:
            self.rows_per_call = 5

        def start(self, prompt_ids: Sequence[list[int]], sampling: Sampling, limit: int) -> SampledBatch:
            completions = [[1] * limit for _ in prompt_ids]
            return SampledBatch(prompt_ids, completions, [False] * len(completions), limit, sampling)

    setup = EngineSetup(tokenizer=None, model_path="here", batch_size=7)
    engine = make_engine("of_its_own", setup)
    assert engine.setup is setup and engine.rows_per_call == 5
    batch = engine.extend(engine.start([[1]], Sampling(), 2), [0], 3)
    assert batch.completion_ids == [[1, 1, 1]]


# --- stages -------------------------------------------------------------------------------------------------------


class ByTokenIds(TransformersEngine):
    """The same engine without a cache between stages."""

    extend = Engine.extend


ENDS = [3, 7, 8, 30]


def in_stages(engine: Engine, sampling: Sampling, ends: list[int], leave: Any = lambda rows: rows) -> SampledBatch:
    batch = engine.start(prompts(), sampling, ends[0])
    for limit in ends[1:]:
        batch = engine.extend(batch, leave(batch.unfinished), limit)
    return batch


def prompts() -> list[list[int]]:
    return encode_prompts(build_tokenizer(), PROMPTS * 2)


def engine_of(kind: type[Engine]) -> Engine:
    tokenizer = build_tokenizer()
    return kind(EngineSetup(tokenizer, "", build_model(tokenizer)))


def sampling_of(engine: Any, **options: Any) -> Sampling:
    """Settings under which some sequences end in every stage, and others in none."""
    return Sampling(end_token_ids=(20, 21, 22, engine.setup.tokenizer.eos_token_id), pad_token_id=0, **options)


@pytest.mark.parametrize("kind", [TransformersEngine, ByTokenIds])
def test_greedy_stages_give_what_one_call_gives(kind: type[Engine]) -> None:
    engine = engine_of(kind)
    sampling = sampling_of(engine, temperature=0.0)
    whole, staged = engine.start(prompts(), sampling, ENDS[-1]), in_stages(engine, sampling, ENDS)
    assert (staged.completion_ids, staged.finished) == (whole.completion_ids, whole.finished)
    assert staged.limit == ENDS[-1] and {True, False} == set(staged.finished)


def test_seeded_stages_give_what_one_call_gives() -> None:
    engine = engine_of(TransformersEngine)
    sampling = sampling_of(engine, seeds=tuple(range(len(prompts()))))
    whole, staged = engine.start(prompts(), sampling, ENDS[-1]), in_stages(engine, sampling, ENDS)
    assert (staged.completion_ids, staged.finished) == (whole.completion_ids, whole.finished)
    ends = {sum(len(ids) > end for end in ENDS) for ids in whole.completion_ids}
    assert len(ends) >= 3, "completions must end in several stages, or this test is blind"


@pytest.mark.parametrize("kind", [TransformersEngine, ByTokenIds])
def test_rows_that_leave_stay_as_they_were(kind: type[Engine]) -> None:
    engine = engine_of(kind)
    sampling = sampling_of(engine, temperature=0.0)
    whole = engine.start(prompts(), sampling, ENDS[-1])
    staged = in_stages(engine, sampling, ENDS, leave=lambda rows: rows[len(rows) // 3 :])
    cut = [len(ids) for ids, done in zip(staged.completion_ids, staged.finished, strict=True) if not done]
    assert set(cut) & set(ENDS[:-1]), "some rows leave"
    for ours, theirs in zip(staged.completion_ids, whole.completion_ids, strict=True):
        assert ours == theirs[: len(ours)]


def test_token_ids_that_are_handed_back_draw_other_numbers() -> None:
    """A seed that served twice would repeat the first stage's noise, and with it often its tokens."""
    engine = engine_of(ByTokenIds)
    seeds = tuple(range(400))
    sampling = Sampling(end_token_ids=(engine.setup.tokenizer.eos_token_id,), temperature=50.0, seeds=seeds)
    batch = engine.start([prompts()[1]] * 400, sampling, 1)
    batch = engine.extend(batch, batch.unfinished, 2)
    again = [ids[0] == ids[1] for ids in batch.completion_ids if len(ids) == 2]
    assert sum(again) < 0.2 * len(again), "nearly uniform tokens repeat once in 28"


@pytest.mark.parametrize(
    "options", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}, {"repetition_penalty": 1.0}]
)
@pytest.mark.parametrize("seeded", [True, False])
def test_every_setting_reaches_the_sampler(options: dict[str, Any], seeded: bool) -> None:
    engine = engine_of(TransformersEngine)
    seeds = tuple(range(len(prompts()))) if seeded else None
    greedy = engine.start(prompts(), sampling_of(engine, temperature=0.0), 8)
    torch.manual_seed(0)
    sampled = engine.start(prompts(), sampling_of(engine, seeds=seeds, **options), 8)
    assert (sampled.completion_ids == greedy.completion_ids) is (options != {"repetition_penalty": 1.0})
    penalised = replace(sampling_of(engine, temperature=0.0), repetition_penalty=5.0)
    assert engine.start(prompts(), penalised, 8).completion_ids != greedy.completion_ids


@pytest.mark.parametrize("kind", [TransformersEngine, ByTokenIds])
def test_a_stop_string_ends_a_completion_and_stays_in_it(kind: type[Engine]) -> None:
    path = resolve_model("embedded")
    engine = kind(EngineSetup(load_tokenizer(path), path))
    decode = engine.setup.tokenizer.decode
    ends, problems = engine.setup.tokenizer.eos_token_id, countdown.generate(6, seed=0)
    asked = encode_prompts(engine.setup.tokenizer, [countdown.render_prompt(p, "base") for p in problems])
    sampling = Sampling(temperature=0.0, end_token_ids=(ends,), pad_token_id=0)
    free = engine.start(asked, sampling, 40)
    stop = decode(free.completion_ids[0][11:13])
    assert len(free.completion_ids[0][11:13]) == 2 and len(stop) > 1, "it lies across the end of a stage"
    staged = replace(sampling, stop_strings=(stop,))
    batch = engine.start(asked, staged, 12)
    batch = engine.extend(batch, batch.unfinished, 40)
    for ours, theirs, done in zip(batch.completion_ids, free.completion_ids, batch.finished, strict=True):
        assert ours == theirs[: len(ours)] and stop not in decode(ours[:-1])
        assert done == (stop in decode(ours) or ours[-1] == ends)
    assert batch.finished[0] and len(batch.completion_ids[0]) <= 13


class Letters:
    """A tokenizer of letters."""

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


class Reciting(Engine):
    """Recites a text of letters from where a prompt breaks off; sees stop strings in what it writes itself alone."""

    text = "one two three four five six"

    def start(self, prompt_ids: Any, sampling: Sampling, limit: int) -> SampledBatch:
        rows = [list(map(ord, self.text[len(prompt) : len(prompt) + limit])) for prompt in prompt_ids]
        finished = [len(prompt) + len(row) == len(self.text) for prompt, row in zip(prompt_ids, rows, strict=True)]
        logprobs = [[-float(id) for id in row] for row in rows]
        return SampledBatch([list(prompt) for prompt in prompt_ids], rows, finished, limit, sampling, logprobs)


class Bytes:
    """A tokenizer of bytes: rare characters are several tokens."""

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


class RecitingBytes(Reciting):
    """The same, byte by byte."""

    text = "答案四。后面还有很多字".encode().decode("latin-1")


@pytest.mark.parametrize("joint", [10, 11, 12])
@pytest.mark.parametrize("stop", ["。", "四。"])
def test_a_stop_string_of_several_tokens_to_a_character_ends_the_completion(stop: str, joint: int) -> None:
    engine = RecitingBytes(EngineSetup(Bytes(), ""))
    batch = engine.start([[]], Sampling(stop_strings=(stop,)), joint)
    if not batch.finished[0] and stop not in Bytes().decode(batch.completion_ids[0]):
        batch = engine.extend(batch, [0], 30)
        assert Bytes().decode(batch.completion_ids[0]) == "答案四。" and batch.finished == [True]


@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        (("two three",), "one two three"),
        (("o t", "six"), "one two t"),
        (("zero",), "one two three four fi"),
        ((), None),
    ],
)
def test_a_stop_string_across_two_stages_ends_the_completion(stops: tuple[str, ...], expected: str | None) -> None:
    engine = Reciting(EngineSetup(Letters(), ""))
    batch = engine.start([[]], Sampling(stop_strings=stops), 8)
    batch = engine.extend(batch, [0], 21)
    assert engine.extend(batch, [], 40).completion_ids == batch.completion_ids
    written = engine.setup.tokenizer.decode(batch.completion_ids[0])
    assert written == (expected or engine.text[:21]) and batch.finished == [len(written) < 21]
    assert batch.logprobs == [[-float(id) for id in batch.completion_ids[0]]]
