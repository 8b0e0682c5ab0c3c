"""Which checkpoint a run continues from: the newest that was written to its end."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tinyzero_trl.runs.checkpoints import (
    checkpoint_to_resume,
    drop_later_checkpoints,
    fault_of,
    has_optimizer,
    is_last,
    passed_over,
)

ONE_PROCESS = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


def write(folder: Path, state: str | None = None, step: int = 0, files: Sequence[str] = ()) -> Path:
    for name in ("model.safetensors", *files):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".safetensors":
            save_file({"weight": np.ones(4, np.float32)}, file)
        else:
            torch.save({"numbers": torch.ones(4)}, file)
    if state != "missing":
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}) if state is None else state)
    return folder


def test_auto_takes_the_newest_by_number(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        write(tmp_path / f"checkpoint-{step}", step=step)
    assert checkpoint_to_resume("auto", tmp_path) == str(tmp_path / "checkpoint-100")


_NO_STATES = ('{"global_step": "3"}', '{"global_step": 3, "epoch": [1]}', f'{{"global_step": 3, "a": {"[" * 100_000}')


@pytest.mark.parametrize(
    "state", ["missing", "", '{"global_step": 3', "[]", "{}", "\x00\x00", *_NO_STATES], ids=lambda state: state[:30]
)
def test_a_half_written_checkpoint_is_never_picked_up(tmp_path: Path, state: str) -> None:
    half = write(tmp_path / "checkpoint-30", state)
    assert fault_of(half) == "trainer_state.json is missing or cut"
    assert checkpoint_to_resume("auto", tmp_path) is None
    write(tmp_path / "checkpoint-10", step=10)
    assert checkpoint_to_resume("auto", tmp_path) == str(tmp_path / "checkpoint-10")
    with pytest.raises(
        ValueError, match=r"^resume: .*-30' holds no complete checkpoint \(trainer_state.json is missing or cut\); give"
    ):
        checkpoint_to_resume(str(half), tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        ONE_PROCESS,
        (*ONE_PROCESS[:2], "rng_state_0.pth", "rng_state_1.pth"),
        (*ONE_PROCESS[:2], "rng_state_8.pth", "rng_state_9.pth"),  # the second machine of two, with save_on_each_node
        ("optimizer.bin", *ONE_PROCESS[1:]),
        ("optimizer_0/__0_0.distcp", "pytorch_model_fsdp_0/__0_0.distcp", *ONE_PROCESS[1:]),
        ("global_step3/mp_rank_00_model_states.pt", "latest", "rng_state_0.pth"),
        (),
    ],
    ids=["one process", "ranks", "second machine", "fsdp full", "fsdp sharded", "deepspeed", "weights alone"],
)
def test_what_each_way_to_train_saves_is_complete(tmp_path: Path, files: Sequence[str]) -> None:
    folder = write(tmp_path / "checkpoint-3", files=files)
    assert fault_of(folder) is None
    assert has_optimizer(folder) is bool(files)


def test_an_adapter_and_weights_in_parts_are_complete(tmp_path: Path) -> None:
    adapter = write(tmp_path / "checkpoint-1", files=("adapter_model.safetensors",))
    (adapter / "model.safetensors").unlink()
    assert fault_of(adapter) is None
    parts = write(tmp_path / "checkpoint-2", files=("model-00001-of-00002.safetensors",))
    (parts / "model.safetensors").unlink()
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert fault_of(parts) == "model-00002-of-00002.safetensors is missing"


@pytest.mark.parametrize("lost", ["model.safetensors", *ONE_PROCESS])
def test_a_checkpoint_that_has_lost_a_file_does_not_count(tmp_path: Path, lost: str) -> None:
    """Training would go on with another optimizer, schedule or random numbers, and end with another result."""
    older = write(tmp_path / "checkpoint-4", files=ONE_PROCESS)
    newer = write(tmp_path / "checkpoint-5", files=ONE_PROCESS)
    (newer / lost).unlink()
    assert checkpoint_to_resume("auto", tmp_path) == checkpoint_to_resume("newest", tmp_path) == str(older)
    assert passed_over(tmp_path, str(older)) == {newer: f"{lost} is missing"}
    with pytest.raises(ValueError, match=rf"-5' holds no complete checkpoint \({lost} is missing\); give auto, never"):
        checkpoint_to_resume(str(newer), tmp_path)


def test_the_random_numbers_of_each_rank_are_looked_for(tmp_path: Path) -> None:
    files = (*ONE_PROCESS[:2], "rng_state_0.pth", "rng_state_2.pth")
    assert fault_of(write(tmp_path / "checkpoint-1", files=files)) == "rng_state_1.pth is missing"


@pytest.mark.parametrize("file", ["model.safetensors", *ONE_PROCESS, "config.json"])
def test_a_checkpoint_with_an_empty_or_damaged_file_does_not_count(tmp_path: Path, file: str) -> None:
    """What a power cut or a full disk leaves: no bytes, fewer of them, or zeros."""
    folder = write(tmp_path / "checkpoint-5", files=ONE_PROCESS)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    assert fault_of(folder) is None
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(b"")
    assert fault_of(folder) == f"{file} is empty"
    for damaged in (whole[:5], whole[: len(whole) // 2], whole[:-1], bytes(len(whole))):
        (folder / file).write_bytes(damaged)
        assert fault_of(folder) == f"{file} is damaged"


@pytest.mark.parametrize(
    "content", [[1], {}, {"weight_map": [1]}, {"weight_map": {"a": 1}}, {"weight_map": {"a": [1]}}]
)
def test_an_index_that_names_no_files_is_damaged(content: object, tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    assert fault_of(folder) == "model.safetensors.index.json is damaged"


def test_a_packed_pickle_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, files=ONE_PROCESS)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacks it"))
    with zipfile.ZipFile(folder / "optimizer.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("optimizer/data.pkl", bytes(10**6))
    assert fault_of(folder) == "optimizer.pt is damaged"


def test_a_damaged_pickle_is_known_by_its_checksum(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint-5", files=ONE_PROCESS)
    whole = (folder / "optimizer.pt").read_bytes()
    (folder / "optimizer.pt").write_bytes(whole.replace(b"numbers", b"n\0mbers"))
    assert fault_of(folder) == "optimizer.pt is damaged"


def test_an_empty_file_in_a_folder_of_the_checkpoint_is_found(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint-5", files=("global_step5/zero_optim_states.pt", "rng_state_0.pth"))
    (folder / "global_step5" / "zero_optim_states.pt").write_bytes(b"")
    assert fault_of(folder) == "global_step5/zero_optim_states.pt is empty"


def test_other_folders_are_passed_over(tmp_path: Path) -> None:
    for name in ("checkpoint-best", "checkpoint-7.old", "old-checkpoint-7"):
        write(tmp_path / name)
    (tmp_path / "checkpoint-8").write_text("a file")
    assert checkpoint_to_resume("auto", tmp_path) is None
    assert checkpoint_to_resume("auto", tmp_path / "missing") is None


def test_never_and_a_path_are_taken_at_their_word(tmp_path: Path) -> None:
    older = write(tmp_path / "run" / "checkpoint-5", step=5)
    write(tmp_path / "run" / "checkpoint-6", step=6)
    assert checkpoint_to_resume("never", tmp_path / "run") is None
    assert checkpoint_to_resume(str(older), tmp_path / "run") == str(older)
    with pytest.raises(ValueError, match=r"^resume: 'always' holds no complete checkpoint"):
        checkpoint_to_resume("always", tmp_path / "run")


@pytest.mark.parametrize(
    ("max_steps", "epochs", "last"), [(8, 1, True), (7, 9, True), (9, 1, False), (-1, 1.5, True), (-1, 2, False)]
)
def test_the_last_checkpoint_is_known_by_steps_or_else_by_epochs(tmp_path, max_steps, epochs, last) -> None:
    folder = write(tmp_path / "checkpoint-8", json.dumps({"global_step": 8, "epoch": 1.5}))
    assert is_last(str(folder), max_steps, epochs) is last


def test_what_is_later_than_the_start_of_a_run_is_forgotten(tmp_path: Path) -> None:
    """Otherwise a run that starts over and is killed early would go on from a checkpoint of its former life."""
    for step in (5, 10, 15):
        write(tmp_path / f"checkpoint-{step}", step=step)
    write(tmp_path / "checkpoint-20", "missing")
    write(tmp_path / "checkpoint-best")
    drop_later_checkpoints(tmp_path, 10)
    left = {"checkpoint-5", "checkpoint-10", "checkpoint-best"}
    assert {folder.name for folder in tmp_path.iterdir()} == left
    drop_later_checkpoints(tmp_path, -1)
    assert [folder.name for folder in tmp_path.iterdir()] == ["checkpoint-best"]
    drop_later_checkpoints(tmp_path / "nowhere", -1)


def test_any_flipped_bit_in_the_directory_of_a_pickle_is_damage(tmp_path: Path) -> None:
    """zipfile meets such bits with exceptions of several kinds; `resume: auto` goes on from the checkpoint before."""
    folder = write(tmp_path / "checkpoint-5", files=ONE_PROCESS)
    file = folder / "optimizer.pt"
    whole = file.read_bytes()
    faults = set()
    for place in range(len(whole) - 200, len(whole)):
        for bit in (0, 3, 7):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            file.write_bytes(flipped)
            faults.add(fault_of(folder))  # raises nothing
    assert "optimizer.pt is damaged" in faults
