"""Broken numbers move nothing, and broken disks cost no complete checkpoint."""

import json
import math
import resource
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.faults import FaultyTrainer, train
from tests.support.ranks import run_on_ranks


def figures(folder: Path | str, name: str) -> list[float]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [record[name] for record in map(json.loads, lines) if name in record]


@pytest.mark.parametrize(("fault", "max_grad_norm"), [("loss", 0.0), ("loss", 1.0), ("gradient norm", 1.0)])
def test_a_step_on_a_broken_number_moves_nothing_and_the_next_one_does(fault: str, max_grad_norm: float) -> None:
    run = train(fault, at=(2,), max_grad_norm=max_grad_norm)
    assert run["moved"] == [True, False, True, True]
    assert figures(run["folder"], "faults/step_skipped") == [0, 1, 0, 0]
    assert figures(run["folder"], "faults/skipped_steps") == [0, 1, 1, 1]
    assert math.isfinite(run["weights"])


def test_no_step_is_taken_on_a_rollout_whose_rewards_are_broken() -> None:
    run = train("reward", at=(1,))  # the first rollout, on which two optimizer steps are taken
    assert run["moved"] == [False, False, True, True]
    assert figures(run["folder"], "faults/skipped_steps") == [1, 2, 2, 2]
    assert figures(run["folder"], "train/cumulative_reward")[0] <= 1, "an infinite reward is none"


def test_a_row_without_score_is_left_out_as_trl_does() -> None:
    run = train("one row without score", at=(1,))
    assert run["moved"] == [True] * 4
    assert figures(run["folder"], "faults/skipped_steps") == [0, 0, 0, 0]


def test_a_rollout_without_any_score_is_no_fault_and_teaches_nothing() -> None:
    """As with TRL: a reward function may have nothing to say of some prompts."""
    run = train("no score", at=(1,))
    assert run["moved"] == [True] * 4, "the optimizer takes its steps, on a gradient of 0"
    assert figures(run["folder"], "faults/skipped_steps") == [0, 0, 0, 0]
    assert figures(run["folder"], "loss")[:2] == [0, 0]


def test_too_many_broken_steps_in_a_row_end_the_run_with_the_batch_to_look_at(tmp_path: Path) -> None:
    run = train("loss", at=(1, 3, 4), folder=str(tmp_path), max_skipped_steps=1)
    assert run["moved"] == [False, True, False]
    assert run["error"].startswith("step 4: loss and gradient norm not finite, 2 optimizer steps in a row")
    assert f"the batch is in {tmp_path / 'faulty_batch'}" in run["error"]
    tensors = load_file(tmp_path / "faulty_batch" / "rank_0.safetensors")
    rows = json.loads((tmp_path / "faulty_batch" / "rank_0.json").read_text())
    assert (rows["step"], rows["not_finite"]) == (4, ["loss", "gradient norm"])
    assert len(tensors["completion_ids"]) == len(rows["completions"]) == len(rows["prompts"]) == 8
    assert {"prompt_ids", "completion_mask", "advantages", "old_per_token_logps"} <= tensors.keys()


@pytest.mark.parametrize("too_large", ["model.safetensors", "optimizer.pt"])
def test_a_checkpoint_that_does_not_fit_is_removed_and_the_last_complete_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, too_large: str
) -> None:
    """A limit on the size of files looks like a full disk to whoever writes them, root included."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = FaultyTrainer._save_checkpoint

    def save_on_a_full_disk(self: FaultyTrainer, *args) -> None:
        if self.state.global_step == 4:
            size = (tmp_path / "checkpoint-2" / too_large).stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, limit[1]))
        try:
            save(self, *args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    monkeypatch.setattr(FaultyTrainer, "_save_checkpoint", save_on_a_full_disk)
    run = train("none", folder=str(tmp_path), max_steps=6, save_strategy="steps", save_steps=2, save_total_limit=1)
    assert run["moved"] == [True] * 6
    assert run["checkpoints"] == ["checkpoint-6"]
    [line] = [record.message for record in caplog.records if "could not be written" in record.message]
    assert "checkpoint-4 could not be written (" in line
    assert "The last complete checkpoint stays" in line


def test_a_checkpoint_that_failed_rotates_no_complete_one_away(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
    run = train("disk, first rank", at=(4,), folder=str(tmp_path), **settings)
    assert run["checkpoints"] == ["checkpoint-2"]
    assert run["checkpoint_error"] == "[Errno 28] No space left on device"


@pytest.mark.slow
def test_two_ranks_skip_and_save_alike(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    best = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "eval/acc"}
    names = ["loss", "gradient norm", "reward", "first", "last", "best"]
    folders = [str(tmp_path / name) for name in names]
    runs = [
        {"fault": "loss", "at": [2], "folder": folders[0]},
        {"fault": "gradient norm", "at": [2], "folder": folders[1]},
        {"fault": "reward", "at": [1], "folder": folders[2], "max_skipped_steps": 1},
        {"fault": "disk, first rank", "at": [2], "folder": folders[3], **saving},
        {"fault": "disk, last rank", "at": [3], "folder": folders[4], **saving},
        {"fault": "disk, first rank", "at": [2], "folder": folders[5], **saving, **best},  # the ranks meet once more
    ]
    ranks = run_on_ranks(2, "faults", json.dumps(runs))
    assert len(ranks) == 2
    for first, second in zip(*ranks, strict=True):
        assert first["moved"] == second["moved"]
        assert first["weights"] == second["weights"], "ranks that skip apart drift apart"
        assert first["error"] == second["error"]
        assert first["checkpoint_error"] == second["checkpoint_error"]
    loss, norm, reward, first_disk, last_disk, best_disk = ranks[0]
    assert loss["moved"] == norm["moved"] == [True, False, True, True]
    assert reward["moved"] == [False] and "2 optimizer steps in a row" in reward["error"]
    assert {file.name for file in (tmp_path / "reward" / "faulty_batch").iterdir()} == {
        *("rank_0.json", "rank_0.safetensors", "rank_1.json", "rank_1.safetensors")
    }
    assert first_disk["checkpoints"] == last_disk["checkpoints"] == best_disk["checkpoints"] == ["checkpoint-4"]
    assert figures(tmp_path / "last", "step") == [1, 2, 3, 4]
