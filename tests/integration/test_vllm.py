"""Rollouts by colocated vLLM, for real: it obeys the window, and it has the policy's weights."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import launch, written_down
from tests.support.training import LONGEST, RECIPE, write_recipe
from tests.support.training import train as train_here
from tests.support.vllm_server import Server
from tests.support.vllm_training import VLLM
from tinyzero_trl.runs.records import read_run

SAME, STALE = 1e-4, 0.5  # largest difference of a log-probability between engine and policy


def train(workshop: Path, way: str, ranks: int, **overrides: Any) -> list[dict[str, Any]]:
    """What each rank saw."""
    batch = {"per_device_train_batch_size": 16 // ranks, "per_device_eval_batch_size": 8 // ranks}
    recipe = write_recipe(workshop, **VLLM, **batch, **overrides)
    launch(way, ranks, "vllm_training", str(recipe), str(workshop), TORCH_COMPILE_DISABLE="1")
    return written_down(workshop, ranks)


@pytest.mark.vllm
def test_the_window_travels_with_every_request_to_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trl.generation.vllm_generation.VLLMClient", Server)
    schedule = {"window_strategy": "phased", "window_phases": "[[0, 8], [1, 16], [2, 20]]"}
    recipe = write_recipe(tmp_path, use_vllm=True, vllm_mode="server", max_steps=3, save_strategy="no", **schedule)
    trainer = train_here(recipe)
    rollouts = [batch.lengths for batch in trainer.batches if batch.training]
    assert [set(lengths) for lengths in rollouts] == [{8}, {16}, {20}]
    assert set(Server.allowed) == {8, 16, 20, LONGEST} and Server.allowed[0] == Server.allowed[-1] == LONGEST
    names = {name for name, _ in trainer.model.named_parameters()}
    assert len(Server.handed_over) >= 3 and all(seen == names for seen in Server.handed_over)


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize(
    ("way", "ranks", "engines"),
    [
        pytest.param("cpu", 1, {}, id="one-process"),
        pytest.param(
            "zero3", 2, {"vllm_tensor_parallel_size": 2}, id="zero3-tensor-parallel", marks=pytest.mark.deepspeed
        ),
        pytest.param("fsdp2", 2, {}, id="fsdp2"),
    ],
)
def test_vllm_obeys_the_window_and_has_the_weights_of_the_policy(
    way: str, ranks: int, engines: dict[str, Any], tmp_path: Path
) -> None:
    by_rank = train(tmp_path, way, ranks, **engines)
    for rank, seen in enumerate(by_rank):
        assert seen["ranks"] == ranks
        assert seen["sampling_seed"] == RECIPE["seed"] + rank // engines.get("vllm_tensor_parallel_size", 1)
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
