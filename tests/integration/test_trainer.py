"""Training end to end on a random model: records against a recount, windows on the engine, resuming, reproducing."""

import json
import shutil
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.rollout_recount import Row, recount
from tests.support.training import LONGEST, Batch, WatchedTrainer, train, write_recipe
from tinyzero_trl.commands.train import main
from tinyzero_trl.generation import interception
from tinyzero_trl.metrics import describe
from tinyzero_trl.runs.records import Run, read_run
from tinyzero_trl.training.held_out import random_numbers_of_its_own

STEPS = 6


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def trained(workshop: Path) -> WatchedTrainer:
    """The run that most tests look at, under the success window."""
    return train(write_recipe(workshop, "success"), pictures=True)


@pytest.fixture(scope="module")
def run(trained: WatchedTrainer) -> Run:
    return read_run(str(trained.args.output_dir))


def rollouts(trainer: WatchedTrainer) -> list[Batch]:
    return [batch for batch in trainer.batches if batch.training]


def without_time(lines: list[dict]) -> list[dict]:
    """TRL's own timings are `step_time` and `*_per_second`."""
    clocks = ("time", "step_time", "profiling")
    return [{name: value for name, value in line.items() if not name.startswith(clocks)} for line in lines]


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def assert_same_weights(some: Path, others: Path) -> None:
    ours, theirs = weights(some), weights(others)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


# --- records ------------------------------------------------------------------------------------------------------


def test_a_run_leaves_everything_that_the_contract_names(run: Run, trained: WatchedTrainer) -> None:
    names = {file.name for file in run.path.iterdir()}
    assert names >= {
        *("config.yaml", "environment.json", "metrics.jsonl", "eval.jsonl", "summary.json", "README.md"),
        *("completions", "plots", "checkpoint-3", "checkpoint-6", "model.safetensors", "tokenizer.json"),
    }
    assert [line["step"] for line in run.metrics] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in run.evals] == [0, 3, 6]
    assert run.environment["processes"] == 1
    assert (run.config["recipe"], run.config["window_strategy"]) == ("success", "success")
    assert {sample["source"] for sample in run.completions} == {"train", "eval"}


def test_every_line_has_the_figures_of_the_contract(run: Run) -> None:
    always = {
        *(f"adaptive_window/{name}" for name in ("current_window", "next_window", "success_rate", "success_rate_ema")),
        *(
            f"adaptive_window/{name}"
            for name in ("cumulative_success_rate", "cumulative_reward", "num_success_samples")
        ),
        *(f"adaptive_window/{name}" for name in ("exploration_rate", "epsilon", "explored_step")),
        *(f"tokens/{name}" for name in ("prompt_total", "response_total", "overall_total", "response_cumulative")),
        *(f"completion/{name}" for name in ("truncated_frac", "finished_frac")),
        *(f"group/{name}" for name in ("zero_variance_frac", "all_correct_frac", "all_wrong_frac")),
        *(f"time/{name}" for name in ("elapsed_s", "rollout_s", "optimize_s")),
        *("compute/rows_skipped_frac", "train/cumulative_reward", "loss", "reward"),
    }
    of_successes = {f"adaptive_window/{name}_success_length" for name in ("mean", "median", "std", "p95")}
    of_ratios = {f"actor/is_ratio/{name}" for name in ("mean", "std", "p95")} | {"actor/is_clip/outside_frac"}
    of_ratios |= {f"actor/is_log_ratio/{name}" for name in ("mean", "std")}
    assert any(line["adaptive_window/num_success_samples"] for line in run.metrics)
    for line in run.metrics:
        assert not always - line.keys()
        assert (of_successes <= line.keys()) == (line["adaptive_window/num_success_samples"] > 0)
        assert (of_ratios <= line.keys()) == (line["compute/rows_skipped_frac"] < 1)
        ours = {
            name for name in line if "/" in name and not name.startswith(("completions/", "rewards/", "clip_ratio/"))
        }
        assert [name for name in ours if describe(name) is None] == []


def test_figures_equal_a_recount_of_the_rows(run: Run, trained: WatchedTrainer) -> None:
    tokenizer, tokens, reward, rewards = trained.processing_class, 0, 0.0, 0.0
    for line, batch in zip(run.metrics, rollouts(trained), strict=True):
        prompts = [len(tokenizer(prompt)["input_ids"]) for prompt in batch.prompts]
        groups = [row // 4 for row in range(16)]
        figures = recount(
            list(map(Row, batch.lengths, batch.rewards, batch.truncated, groups, prompts, batch.operands))
        )
        tokens += sum(batch.lengths)
        reward += sum(batch.rewards)
        rewards += mean(batch.rewards)
        expected = {name: value for name, value in figures.items() if value is not None} | {
            "adaptive_window/current_window": batch.window,
            "adaptive_window/cumulative_reward": reward,
            "train/cumulative_reward": rewards,
            "tokens/response_cumulative": tokens,
            # beta is 0: exactly the rows of groups without variance are left out
            "compute/rows_skipped_frac": figures["group/zero_variance_frac"],
            "reward": mean(batch.rewards),
        }
        assert {name: line.get(name) for name in expected} == pytest.approx(expected, abs=1e-6)
    assert run.evals[-1]["tokens"] == tokens


def test_an_evaluation_counts_every_problem_once_at_full_length(run: Run, trained: WatchedTrainer) -> None:
    batches = [batch for batch in trained.batches if not batch.training]
    rows = [row for batch in batches for row in zip(batch.rewards, batch.lengths, strict=True)]
    assert len(rows) % len(run.evals) == 0
    each = len(rows) // len(run.evals)
    for place, line in enumerate(run.evals):
        answered = rows[place * each : (place + 1) * each]
        assert line["eval/n"] == len(answered) == 11
        assert line["eval/acc"] == pytest.approx(mean(reward >= 1 for reward, _ in answered))
        assert line["eval/mean_length"] == pytest.approx(mean(length for _, length in answered))


def test_the_summary_tells_accuracy_before_and_after(run: Run) -> None:
    assert run.summary is not None
    assert run.summary["accuracy_before"]["mean"] == run.evals[0]["eval/acc"]
    assert run.summary["accuracy_after"]["mean"] == run.evals[-1]["eval/acc"]
    assert run.summary["rollout_tokens"] == run.metrics[-1]["tokens/response_cumulative"]
    assert (run.summary["steps"], run.summary["problems"], run.summary["seed"]) == (STEPS, 11, 7)
    evaluations = run.evals[-1]["time_s"] - run.summary["seconds"]
    assert evaluations > 0, "training time leaves evaluations out"


def test_the_final_weights_load_and_are_those_of_the_last_step(
    run: Run, trained: WatchedTrainer, workshop: Path
) -> None:
    assert_same_weights(run.path, run.path / "checkpoint-6")
    moved = weights(workshop / "model")
    assert any(not torch.equal(value, moved[name]) for name, value in weights(run.path).items())
    tokenizer = AutoTokenizer.from_pretrained(run.path)
    assert tokenizer("1 2 3")["input_ids"] == trained.processing_class("1 2 3")["input_ids"]


# --- the window ---------------------------------------------------------------------------------------------------


def test_the_engine_gets_the_window_and_nothing_else_does(trained: WatchedTrainer) -> None:
    windows = [batch.window for batch in rollouts(trained)]
    assert len(set(windows)) > 1, "a window that never moves would prove nothing"
    for batch in trained.batches:
        assert batch.engine_limit == (batch.window if batch.training else LONGEST)
        assert max(batch.lengths) <= batch.engine_limit
        assert all(
            length == batch.engine_limit for length, cut in zip(batch.lengths, batch.truncated, strict=True) if cut
        )
        assert batch.normaliser == LONGEST
    assert any(True in batch.truncated for batch in rollouts(trained))
    assert trained.max_completion_length == LONGEST


def test_rollouts_and_evaluation_let_finished_rows_leave(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    compacting = interception.compacting_generate

    def watched(model, input_ids, *args, **kwargs):
        batches.append(len(input_ids))
        return compacting(model, input_ids, *args, **kwargs)

    monkeypatch.setattr(interception, "compacting_generate", watched)
    trainer = train(write_recipe(workshop, "compacting", max_steps=1, save_strategy="no"))
    assert batches == [len(batch.lengths) for batch in trainer.batches]


def test_a_completion_may_end_with_its_answer(workshop: Path) -> None:
    options = {"max_steps": 2, "save_strategy": "no", "stop_at_answer": True, "max_completion_length": 60}
    recipe = write_recipe(workshop, "answers", **options, window_initial=40, model_name_or_path="embedded")
    trainer = train(recipe)
    tokenizer = trainer.processing_class
    answers = {tokenizer.convert_tokens_to_ids("</answer>")}
    rows = [ids for batch in trainer.batches for ids in batch.ids]
    answered = [ids for ids in rows if answers & set(ids)]
    assert len(answered) > 10
    assert all(answers.isdisjoint(ids[:-1]) and ids[-1] in answers for ids in answered)
    for batch, line in zip(rollouts(trainer), read_run(workshop / "answers").metrics, strict=True):
        cut = [ids for ids in batch.ids if ids[-1] not in answers | {tokenizer.eos_token_id}]
        assert line["completion/truncated_frac"] == len(cut) / len(batch.ids)
        assert all(len(ids) == batch.window for ids in cut)


def test_evaluation_computes_a_loss_only_if_it_chooses_the_best_model(workshop: Path) -> None:
    common = {"max_steps": 1, "save_strategy": "no"}
    plain = train(write_recipe(workshop, "no-loss", **common))
    asked = train(write_recipe(workshop, "loss", **common, metric_for_best_model="eval_loss"))
    logged = [{name for line in trainer.state.log_history for name in line} for trainer in (plain, asked)]
    assert ["eval_loss" in names for names in logged] == [False, True]
    assert all("eval_reward" in names for names in logged)


# --- the same again -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_however_often_it_is_evaluated(workshop: Path, run: Run) -> None:
    train(write_recipe(workshop, "again", eval_steps=2))
    again = read_run(workshop / "again")
    assert without_time(again.metrics) == without_time(run.metrics)
    assert [line["step"] for line in again.evals] == [0, 2, 4, 6]
    assert without_time(again.evals)[::3] == without_time(run.evals)[::2]
    assert_same_weights(again.path, run.path)


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_evaluation_gives_every_device_its_random_state_back(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` seeds all devices: one that kept it would meet the same numbers after every evaluation."""
    device, states = torch.device(kind, 0), [7]
    module = torch.get_device_module(kind)
    monkeypatch.setattr(module, "get_rng_state", lambda of: states[-1] if of == device else None)
    monkeypatch.setattr(module, "set_rng_state", lambda state, of: states.append(state))
    before = torch.get_rng_state()
    with random_numbers_of_its_own(3, device):
        states.append(3)
        assert torch.initial_seed() == 3
    assert states == [7, 3, 7]
    assert torch.equal(torch.get_rng_state(), before)


def test_an_evaluation_draws_from_its_seed_by_numpy_as_by_torch() -> None:
    """On a GPU vLLM 0.31 draws the seed of each completion by NumPy (its `v1/worker/gpu/sample/states.py`)."""

    def drawn() -> list[float]:
        with random_numbers_of_its_own(3, torch.device("cpu")):
            return [np.random.random(), float(torch.rand(()))]

    np.random.seed(7)
    first, expected = np.random.random(), np.random.random()
    np.random.seed(7)
    assert np.random.random() == first
    assert drawn() == drawn()
    assert np.random.random() == expected


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["success", "signal"])
def test_a_run_resumed_from_a_checkpoint_ends_where_an_uninterrupted_one_does(
    workshop: Path, trained: WatchedTrainer, strategy: str
) -> None:
    """Killed between two checkpoints: with lines after the newest one, half a checkpoint and a torn line."""
    whole = workshop / strategy
    if strategy != "success":
        train(write_recipe(workshop, strategy, window_strategy=strategy))
    killed = workshop / f"{strategy}-killed"
    shutil.copytree(whole, killed)
    shutil.rmtree(killed / "checkpoint-6")
    (killed / "checkpoint-6").mkdir()
    for file in ("summary.json", "model.safetensors"):
        (killed / file).unlink()
    with (killed / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 7, "loss"')

    resumed = train(write_recipe(workshop, killed.name, window_strategy=strategy))
    windows = [line["adaptive_window/current_window"] for line in read_run(whole).metrics]
    assert len(set(windows)) > 1
    assert [batch.window for batch in rollouts(resumed)] == windows[3:]
    assert without_time(read_run(killed).metrics) == without_time(read_run(whole).metrics)
    assert without_time(read_run(killed).evals) == without_time(read_run(whole).evals)
    assert_same_weights(killed, whole)
    folders = {"output_dir", "recipe", "logging_dir", "run_name"}
    configs = [
        {name: value for name, value in read_run(run).config.items() if name not in folders} for run in (killed, whole)
    ]
    assert configs[0] == configs[1], "a report takes runs of one policy by their configuration"
    times = [line["time/elapsed_s"] for line in read_run(killed).metrics]
    assert times == sorted(times)


@pytest.mark.slow
def test_a_run_that_was_killed_after_its_last_step_tells_the_same_result(
    workshop: Path, trained: WatchedTrainer
) -> None:
    finished, copy = workshop / "success", workshop / "finished"
    shutil.copytree(finished, copy)
    (copy / "summary.json").unlink()
    assert not hasattr(train(write_recipe(workshop, "finished")), "batches"), "nothing is left to generate"
    assert read_run(copy).metrics == read_run(finished).metrics
    assert read_run(copy).evals == read_run(finished).evals
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (copy, finished)]
    assert summaries[0] == {**summaries[1], "recipe": "finished"}


@pytest.mark.slow
@pytest.mark.usefixtures("deaf_to_signals")
def test_a_finished_run_is_left_alone_whatever_it_is_started_again_with(
    workshop: Path, trained: WatchedTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    finished, copy = workshop / "success", workshop / "changed"
    shutil.copytree(finished, copy)
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    assert main(["--config", str(write_recipe(workshop, "changed"))]) == 0
    assert capsys.readouterr().out == (
        f"{copy} is finished: for another run give another --output_dir, or --resume never\n"
    )
    assert main(["--config", str(write_recipe(workshop, "changed", learning_rate=1.0))]) == 2
    assert "learning_rate: 0.003 there, 1.0 here" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()} == before


# --- other settings -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_optimizer_steps_on_a_rollout(workshop: Path) -> None:
    """With a KL term, the normaliser of dr_grpo and micro-batches: four steps on two rollouts, then one more."""
    settings = {
        "num_iterations": 2,
        "beta": 0.05,
        "loss_type": "dr_grpo",
        "max_steps": 5,
        "eval_steps": 5,
        "save_steps": 5,
    }
    split = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "max_tokens_per_micro_batch": 128}
    trainer = train(write_recipe(workshop, "reuse", **settings, **split))
    lines = read_run(workshop / "reuse").metrics
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert ["tokens/response_total" in line for line in lines] == [True, False, True, False, True]
    for line in lines:
        is_new = "tokens/response_total" in line
        assert (line["actor/is_ratio/std"] < 1e-5) == is_new
        assert (abs(line["actor/is_log_ratio/mean"]) < 1e-6) == is_new
        assert line["compute/rows_skipped_frac"] == 0.0, "a KL term moves every row"
        assert (line["time/rollout_s"] > 0) == is_new
    assert lines[0]["kl"] == pytest.approx(0.0, abs=1e-9)
    assert lines[1]["kl"] > 1e-6
    assert {batch.normaliser for batch in trainer.batches} == {trainer.max_completion_length} == {LONGEST}
    assert min(batch.engine_limit for batch in rollouts(trainer)) < LONGEST


@pytest.mark.slow
def test_shaped_rewards_move_the_policy_and_verdicts_the_window(workshop: Path) -> None:
    trainer = train(write_recipe(workshop, "shaped", reward_shaping="cosine", max_steps=2, eval_steps=2))
    for line, batch in zip(read_run(workshop / "shaped").metrics, rollouts(trainer), strict=True):
        assert line["adaptive_window/success_rate"] == pytest.approx(mean(reward >= 1 for reward in batch.rewards))
        assert line["rewards/score/mean"] == pytest.approx(mean(batch.rewards), abs=1e-6)
        assert line["reward"] == pytest.approx(line["rewards/cosine/mean"], abs=1e-5)
        # Lengths differ, so hardly a group is without variance now.
        assert line["compute/rows_skipped_frac"] < line["group/zero_variance_frac"] + 1e-9
