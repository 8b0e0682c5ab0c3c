"""The recipe program as users start it: exit status, several processes, trackers."""

import importlib.util
import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import DistributedType

from tests.support.training import LONGEST, PROGRAM, ROOT, write_recipe
from tinyzero_trl.commands import train
from tinyzero_trl.metrics import describe
from tinyzero_trl.runs.records import read_run
from tinyzero_trl.training.preflight.launch import check_backend, check_launch

PLANTED = ("hf_plantedinarecipe0", "hf_plantedintheenvironment0", "9f" * 19 + "00")
"""Secrets: a token in a recipe, one in the environment, and W&B's key there."""


def call(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=600, cwd=environment.get("PWD")
    )


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
    assert record.message.startswith("dtype: ") and "1e-06" in record.message


@pytest.mark.slow
def test_two_processes_see_the_same_windows_and_global_figures(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, per_device_train_batch_size=8, per_device_eval_batch_size=4)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = call([*launch, "--module", "tests.support.training", str(recipe), str(tmp_path)], ACCELERATE_USE_CPU="1")
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in range(2)]
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


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under the fixed window that reports to every tracker that is installed, none of them online."""
    workshop = tmp_path_factory.mktemp("trackers")
    names = ["tensorboard", *(name for name in ("wandb", "trackio") if importlib.util.find_spec(name))]
    settings = {"window_strategy": "fixed", "max_steps": 3, "eval_steps": 2, "save_strategy": "no", "report_to": names}
    recipe = write_recipe(workshop, hub_token=PLANTED[0], **settings)
    offline = {"WANDB_MODE": "offline", "WANDB_DIR": str(workshop), "WANDB_SILENT": "true", "PWD": str(workshop)}
    offline |= {"TRACKIO_DIR": str(workshop / "trackio"), "HF_HUB_OFFLINE": "1"}
    offline |= {"HF_TOKEN": PLANTED[1], "WANDB_API_KEY": PLANTED[2]}
    done = call([sys.executable, str(PROGRAM), "--config", str(recipe)], **offline)
    assert done.returncode == 0, done.stderr[-3000:]
    (workshop / "output").write_text(done.stdout + done.stderr)
    recipe.unlink()  # the one file that may hold a token
    assert "Held-out accuracy, 11 problems" in done.stdout
    return workshop


def expected_figures(workshop: Path) -> dict[tuple[str, int], float]:
    """Our figures by name and step; whatever is TRL's own goes its own way."""
    run = read_run(workshop / "run")
    lines = [*run.metrics, *run.evals]
    figures = {(name, line["step"]): value for line in lines for name, value in line.items() if describe(name)}
    return {(name, step): value for (name, step), value in figures.items() if (name, step) != ("time/elapsed_s", 0)}


@pytest.mark.slow
def test_a_fixed_window_stays_and_the_last_step_is_evaluated(tracked: Path) -> None:
    run = read_run(tracked / "run")
    assert {line["adaptive_window/current_window"] for line in run.metrics} == {LONGEST}
    assert [line["step"] for line in run.evals] == [0, 2, 3]


@pytest.mark.slow
def test_no_file_and_no_output_of_a_run_holds_a_secret(tracked: Path) -> None:
    files = [file for file in tracked.rglob("*") if file.is_file()]
    names = {file.name for file in files}
    assert {"config.yaml", "environment.json", "README.md", "training_args.bin", "output"} <= names
    for file in files:
        content = file.read_bytes()
        for secret in PLANTED:
            assert secret.encode() not in content, f"{secret} in {file.relative_to(tracked)}"


@pytest.mark.slow
def test_tensorboard_has_our_figures_under_their_names(tracked: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked / "run" / "tensorboard"))
    events.Reload()
    read = {(name, event.step): event.value for name in events.Tags()["scalars"] for event in events.Scalars(name)}
    expected = expected_figures(tracked)
    for (name, step), value in expected.items():
        if name != "time/elapsed_s":
            assert read[name, step] == pytest.approx(value, rel=1e-5), (name, step)
    others = {name for name, _ in read} - {name for name, _ in expected}
    assert all(name.startswith(("train/", "eval/")) for name in others), "Transformers writes TRL's figures beside ours"


def records_of_a_log(content: bytes) -> Iterator[bytes]:
    """The records of an offline W&B run: a LevelDB log of blocks of 32 KiB, the first with 7 bytes ahead.

    A record lies in one piece (type 1) or in several (first 2, middle 3, last 4), each after checksum, length and type.
    """
    place, record = 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


@pytest.mark.slow
def test_wandb_has_our_figures_under_their_names(tracked: Path) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    [file] = tracked.rglob("*.wandb")
    read = {}
    for data in records_of_a_log(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        read |= {(name, row["train/global_step"]): value for name, value in row.items() if "train/global_step" in row}
    for (name, step), value in expected_figures(tracked).items():
        if name != "time/elapsed_s":
            assert read[name, step] == pytest.approx(value), (name, step)


@pytest.mark.slow
def test_trackio_has_our_figures_under_their_names_in_one_run(tracked: Path) -> None:
    pytest.importorskip("trackio")
    [file] = (tracked / "trackio").glob("*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT run_name, metrics FROM metrics").fetchall()
    assert len({name for name, _ in rows}) == 1
    read = {}
    for _, text in rows:
        row = json.loads(text)
        read |= {(name, row["train/global_step"]): value for name, value in row.items() if "train/global_step" in row}
    for (name, step), value in expected_figures(tracked).items():
        if name != "time/elapsed_s":
            assert read[name, step] == pytest.approx(value), (name, step)
