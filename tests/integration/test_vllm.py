"""Rollouts by colocated vLLM, for real: it obeys the window, and it has the policy's weights."""

import json
from pathlib import Path
from typing import Any

import pytest
from ranks import launch
from training import LONGEST, write_recipe
from vllm_training import VLLM

from tinyzero_trl.records import read_run

SAME, STALE = 1e-4, 0.5  # largest difference of a log-probability between engine and policy


def train(workshop: Path, way: str, ranks: int, **overrides: Any) -> list[dict[str, Any]]:
    """What each rank saw."""
    batch = {"per_device_train_batch_size": 16 // ranks, "per_device_eval_batch_size": 8 // ranks}
    recipe = write_recipe(workshop, **VLLM, **batch, **overrides)
    launch(way, ranks, "vllm_training.py", str(recipe), str(workshop), TORCH_COMPILE_DISABLE="1")
    return [json.loads((workshop / f"rank_{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize(
    ("way", "ranks", "engines"),
    [
        pytest.param("cpu", 1, {}, id="one-process"),
        pytest.param("ddp", 2, {"vllm_tensor_parallel_size": 2}, id="tensor-parallel"),
        pytest.param("zero3", 2, {}, id="zero3", marks=pytest.mark.deepspeed),
        pytest.param("fsdp2", 2, {}, id="fsdp2"),
    ],
)
def test_vllm_obeys_the_window_and_has_the_weights_of_the_policy(
    way: str, ranks: int, engines: dict[str, Any], tmp_path: Path
) -> None:
    by_rank = train(tmp_path, way, ranks, **engines)
    for seen in by_rank:
        assert seen["ranks"] == ranks
        rollouts = [batch for batch in seen["batches"] if batch["training"]]
        assert len(rollouts) == VLLM["max_steps"]
        assert len({batch["window"] for batch in rollouts}) > 2, "a window that stays proves nothing"
        for batch in rollouts:
            assert max(batch["lengths"]) <= batch["window"] == batch["engine_limit"]
            assert batch["normaliser"] == LONGEST
        evaluations = [batch for batch in seen["batches"] if not batch["training"]]
        assert {batch["engine_limit"] for batch in evaluations} == {LONGEST}
        assert max(length for batch in evaluations for length in batch["lengths"]) == LONGEST

        assert max(gap["after"] for gap in seen["gaps"]) < SAME
        assert max(gap["before"] for gap in seen["gaps"]) > STALE, "no hand-over changed anything"
        assert any(max(batch["lengths"]) == batch["window"] for batch in rollouts), "no completion reached a window"
    assert len(read_run(tmp_path / "run").metrics) == VLLM["max_steps"]
