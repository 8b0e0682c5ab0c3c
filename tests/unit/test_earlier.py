"""What a new run finds in its folder is moved aside: nothing is deleted, nothing is mixed."""

import json
from pathlib import Path

import pytest

from tinyzero_trl.runs.earlier import EARLIER, set_aside
from tinyzero_trl.runs.records import RunRecords, read_run


def write_run(folder: Path, steps: int, seed: int = 0, saved: tuple[int, ...] = ()) -> RunRecords:
    records = RunRecords(folder)
    records.write_config({"seed": seed})
    for step in range(1, steps + 1):
        records.append_metrics(step, 0.1, {"loss": step})
    records.append_completions(steps, [{"prompt": "p"}])
    for step in saved:
        write_checkpoint(folder, step)
    return records


def write_checkpoint(folder: Path, step: int, complete: bool = True) -> None:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}) if complete else "")


def steps(folder: Path) -> list[int]:
    return [line["step"] for line in read_run(folder).metrics]


def test_a_new_run_starts_in_an_empty_folder_and_the_former_one_can_be_read(tmp_path: Path) -> None:
    write_run(tmp_path, 3, saved=(2, 3)).write_summary({"steps": 3})
    (tmp_path / "notes.txt").write_text("of the user's")
    aside = set_aside(tmp_path)
    assert aside == tmp_path / EARLIER / "1"
    assert steps(aside) == [1, 2, 3] and read_run(aside).summary == {"steps": 3}
    assert {file.name for file in aside.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}
    assert {file.name for file in tmp_path.iterdir()} == {EARLIER, "config.yaml", "notes.txt"}
    write_run(tmp_path, 2, seed=1)
    assert set_aside(tmp_path) == tmp_path / EARLIER / "2"
    assert [read_run(tmp_path / EARLIER / name).config["seed"] for name in ("1", "2")] == [0, 1]


MODEL = ("model.safetensors", "config.json", "tokenizer.model", "tokenizer.json", "adapter_config.json", "README.md")


@pytest.mark.parametrize("step", [-1, 3])
def test_the_model_of_a_finished_run_is_not_taken_for_that_of_the_next_one(step: int, tmp_path: Path) -> None:
    """Whether another run starts there or the same one goes on for more steps: both may be killed before their end."""
    write_run(tmp_path, 3, saved=(3,)).write_summary({"steps": 3})
    for name in (*MODEL, "notes.txt"):
        (tmp_path / name).write_text("of the former run")
    aside = set_aside(tmp_path, step)
    assert aside is not None and {*MODEL, "summary.json"} < {file.name for file in aside.iterdir()}
    kept = {EARLIER, "config.yaml", "notes.txt"} | (
        {"metrics.jsonl", "completions", "checkpoint-3"} if step > 0 else set()
    )
    assert {file.name for file in tmp_path.iterdir()} == kept
    assert set_aside(tmp_path, 3) is None, "a run that is not finished has no result"


def test_a_new_folder_and_one_with_settings_alone_have_nothing_to_set_aside(tmp_path: Path) -> None:
    assert set_aside(tmp_path / "missing") is None
    write_run(tmp_path, 0).write_environment()
    (tmp_path / "completions" / "step_000000.jsonl").unlink()
    (tmp_path / "completions").rmdir()
    assert set_aside(tmp_path) is None and not (tmp_path / EARLIER).exists()


def test_a_configuration_that_no_run_wrote_is_kept(tmp_path: Path) -> None:
    """A run writes environment.json beside its own; this one would be written over."""
    (tmp_path / "config.yaml").write_text("foo: [")
    for name in ("README.md", "tokenizer.py", "plots"):
        (tmp_path / name).write_text("of the user's own program")
    aside = set_aside(tmp_path)
    assert aside is not None and (aside / "config.yaml").read_text() == "foo: ["
    assert [file.name for file in aside.iterdir()] == ["config.yaml"], "where no run was, there is no result of one"


def test_a_checkpoint_that_has_lost_files_is_moved_aside_and_not_removed(tmp_path: Path) -> None:
    """None of these here holds weights, so that none is complete; the trainer state says that they once were."""
    write_run(tmp_path, 4, saved=(2, 4))
    aside = set_aside(tmp_path, 2)
    assert aside is not None and {file.name for file in aside.glob("checkpoint-*")} == {"checkpoint-4"}


def test_a_run_that_goes_back_to_an_earlier_checkpoint_leaves_a_copy_of_what_came_after(tmp_path: Path) -> None:
    write_run(tmp_path, 6, saved=(2, 3, 6))
    aside = set_aside(tmp_path, 2)
    assert aside is not None and steps(aside) == steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert {file.name for file in aside.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-6"}
    assert {file.name for file in tmp_path.glob("checkpoint-*")} == {"checkpoint-2"}


def test_a_killed_run_that_goes_on_from_its_newest_checkpoint_leaves_nothing_behind(tmp_path: Path) -> None:
    write_run(tmp_path, 5, saved=(2, 4))
    write_checkpoint(tmp_path, 5, complete=False)
    assert set_aside(tmp_path, 4) is None


def test_an_empty_folder_for_completions_is_no_earlier_run(tmp_path: Path) -> None:
    """TRL makes it with `log_completions`, before training begins; files of the user would be moved with it."""
    (tmp_path / "completions").mkdir()
    (tmp_path / "README.md").write_text("mine")
    assert set_aside(tmp_path) is None and (tmp_path / "README.md").exists()
