"""The recipe program as users start it: exit status, several processes."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import DistributedType

from tests.support.ranks import written_down
from tests.support.training import PROGRAM, ROOT, write_recipe
from tinyzero_trl.commands import train
from tinyzero_trl.runs.records import read_run
from tinyzero_trl.training.preflight.launch import check_backend, check_launch, see_one_gpu


def call(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_bad_recipe_ends_with_status_2_and_one_line_and_writes_nothing(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, num_generation=4)
    done = call([sys.executable, str(PROGRAM), "--config", str(recipe)])
    assert done.returncode == 2
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: num_generation: unknown field in the recipe (value 4); did you mean num_generations?"]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_loaded_ends_with_status_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_recipe(tmp_path)
    for arguments, culprit in (
        (["--resume", str(tmp_path / "nowhere")], "resume: "),
        (["--dataset", str(tmp_path / "nowhere")], "dataset: "),
        (["--dataset", "generate", "--operands", "9"], "operands"),
        (["--report_to", "comet_ml"], "report_to: ['comet_ml'] cannot be used (CometCallback requires comet-ml"),
        (["--model_name_or_path", str(tmp_path / "nowhere")], "nowhere"),
        (["--config", str(tmp_path / "nowhere.yaml")], "config: "),
    ):
        config = [] if "--config" in arguments else ["--config", str(good)]
        assert train.main([*config, *arguments]) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert culprit in line
        assert not (tmp_path / "run" / "config.yaml").exists()


def test_one_process_where_several_were_asked_for_is_refused() -> None:
    launched = {"ACCELERATE_MIXED_PRECISION": "no"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    with pytest.raises(ValueError, match=r"^num_processes: accelerate was asked for several .* --multi_gpu"):
        check_launch({**launched, **meeting})
    check_launch({})
    check_launch(launched)
    check_launch(meeting)  # a cluster may set it for every job
    check_launch({**launched, **meeting, "WORLD_SIZE": "2"})
    check_launch({**launched, **meeting, "OMPI_COMM_WORLD_SIZE": "2"})


@pytest.mark.parametrize(
    ("given", "visible"),
    [
        ({}, "0"),
        ({"CUDA_VISIBLE_DEVICES": "3,5"}, "3"),
        ({"WORLD_SIZE": "4"}, None),
        ({"ACCELERATE_USE_CPU": "True"}, None),
    ],
)
def test_a_process_that_trains_alone_sees_one_gpu(
    given: dict[str, str], visible: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """TRL refuses one that sees several."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    environment = dict(given)
    see_one_gpu(environment)
    assert environment.get("CUDA_VISIBLE_DEVICES") == visible
    assert bool(caplog.messages) == (visible is not None)
    if visible:
        assert f"2 GPUs are visible to one process, which trains on GPU {visible}; to train on all" in caplog.text


def test_a_single_gpu_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    environment = {"CUDA_VISIBLE_DEVICES": "3"}
    see_one_gpu(environment)
    assert environment == {"CUDA_VISIBLE_DEVICES": "3"}


def launch_alone(tmp_path: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    """The program, launched with these options."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "--mixed_precision", "no", "--quiet"]
    return call([*command, str(PROGRAM), "--config", str(write_recipe(tmp_path))], **environment)


@pytest.mark.slow
@pytest.mark.parametrize("way", [["--cpu", "--num_processes", "2"]], ids=" ".join)
def test_a_launch_that_falls_back_to_one_process_says_so(tmp_path: Path, way: list[str]) -> None:
    done = launch_alone(tmp_path, *way, "--num_machines", "1", "--dynamo_backend", "no")
    assert done.returncode != 0
    assert "error: num_processes: accelerate was asked for several processes and started one" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "engine"), [("fsdp2", "FSDP"), pytest.param("zero2", "DEEPSPEED", marks=pytest.mark.deepspeed)]
)
def test_a_launch_that_falls_back_to_another_engine_says_so(tmp_path: Path, way: str, engine: str) -> None:
    file = ROOT / "configs" / "accelerate" / f"{way}.yaml"
    options = ["--config_file", str(file), "--num_processes", "1", "--main_process_port", "0"]
    done = launch_alone(tmp_path, *options, ACCELERATE_USE_CPU="1")
    assert done.returncode != 0
    assert f"error: distributed_type: {engine} was asked for and MULTI_CPU runs; " in done.stderr
    assert not list((tmp_path / "run").glob("*")), "Trainer makes the folder, nobody else writes into it"


def watched(engine: DistributedType, **plugin: Any) -> Any:
    """As much of a trainer as is looked at before it starts."""
    fsdp_plugin = SimpleNamespace(**plugin) if plugin else None
    return SimpleNamespace(
        accelerator=SimpleNamespace(
            distributed_type=engine, num_processes=2, state=SimpleNamespace(fsdp_plugin=fsdp_plugin)
        ),
        args=SimpleNamespace(learning_rate=1e-6),
        beta=0.1,
        model=torch.nn.Linear(2, 2, dtype=torch.bfloat16),
        ref_model=torch.nn.Linear(2, 2),
    )


def test_an_engine_is_the_one_that_was_asked_for() -> None:
    check_backend(watched(DistributedType.MULTI_GPU), {})
    check_backend(watched(DistributedType.FSDP), {"ACCELERATE_USE_FSDP": "true"})
    check_backend(watched(DistributedType.DEEPSPEED), {"ACCELERATE_USE_DEEPSPEED": "true"})
    with pytest.raises(ValueError, match=r"^distributed_type: FSDP was asked for and NO runs; "):
        check_backend(watched(DistributedType.NO), {"ACCELERATE_USE_FSDP": "true"})
    with pytest.raises(ValueError, match=r"^distributed_type: DEEPSPEED was asked for and MULTI_CPU runs; "):
        check_backend(watched(DistributedType.MULTI_CPU), {"ACCELERATE_USE_DEEPSPEED": "true"})


def test_a_reference_model_without_weights_is_refused() -> None:
    trainer = watched(DistributedType.FSDP, fsdp_version=2, cpu_ram_efficient_loading=True)
    with pytest.raises(ValueError, match=r"^fsdp_cpu_ram_efficient_loading: true .* reference model that beta 0\.1"):
        check_backend(trainer, {})
    check_backend(watched(DistributedType.FSDP, fsdp_version=2, cpu_ram_efficient_loading=False), {})
    trainer.ref_model = None
    check_backend(trainer, {})


def test_half_precision_weights_are_warned_of_where_nothing_keeps_float32_copies(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check_backend(watched(DistributedType.DEEPSPEED), {})
    assert not caplog.records
    check_backend(watched(DistributedType.MULTI_GPU), {})
    [record] = caplog.records
    assert record.message.startswith(
        "learning_rate: steps of 1e-06 are rounded to nothing in trained weights of half precision; "
    )
    caplog.clear()
    fast, in_float32 = watched(DistributedType.MULTI_GPU), watched(DistributedType.MULTI_GPU)
    fast.args.learning_rate, in_float32.model = 1e-3, torch.nn.Linear(2, 2)
    adapter = watched(DistributedType.MULTI_GPU)
    adapter.model.requires_grad_(False)
    for each in (fast, in_float32, adapter):
        check_backend(each, {})
    assert not caplog.records


@pytest.mark.slow
def test_two_processes_see_the_same_windows_and_global_figures(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, per_device_train_batch_size=8, per_device_eval_batch_size=4)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = call([*launch, "--module", "tests.support.training", str(recipe), str(tmp_path)], ACCELERATE_USE_CPU="1")
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = written_down(tmp_path, 2)
    assert [seen["ranks"] for seen in ranks] == [2, 2], "a launch that falls back to one process would prove nothing"
    first, second = ([batch for batch in seen["batches"] if batch["training"]] for seen in ranks)
    assert [batch["window"] for batch in first] == [batch["window"] for batch in second]
    assert len({batch["window"] for batch in first}) > 1
    assert [batch["lengths"] for batch in first] != [batch["lengths"] for batch in second]

    run = read_run(tmp_path / "run")
    assert run.environment["processes"] == 2
    assert [line["step"] for line in run.metrics] == [1, 2, 3, 4, 5, 6]
    for line, *batches in zip(run.metrics, first, second, strict=True):
        lengths, rewards, truncated = (
            [value for batch in batches for value in batch[name]] for name in ("lengths", "rewards", "truncated")
        )
        assert len(lengths) == 16
        groups = [rewards[start : start + 4] for start in range(0, 16, 4)]
        expected = {
            "adaptive_window/current_window": batches[0]["window"],
            "adaptive_window/success_rate": mean(reward >= 1 for reward in rewards),
            "tokens/response_total": sum(lengths),
            "completion/truncated_frac": mean(truncated),
            "group/zero_variance_frac": mean(len(set(group)) == 1 for group in groups),
            "compute/rows_skipped_frac": mean(len(set(group)) == 1 for group in groups),
        }
        assert {name: line[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    # Eleven problems over two ranks: the sampler repeats some to fill the last batch.
    assert [line["eval/n"] for line in run.evals] == [11, 11, 11]
