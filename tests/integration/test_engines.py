"""DDP, FSDP2 and ZeRO-1/2/3, launched by the shipped files, end where one process with the same global batch does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.engine_training import MODELS, RESUMED_FROM, SETTINGS, STEPS, train_and_resume
from tests.support.ranks import launch, written_down

RANKS = 2
TOLERANCE = 1e-5  # of a parameter relative to its largest entry, in fp32
WAYS = {
    "ddp": ("MULTI_CPU", "DistributedDataParallel"),
    "fsdp2": ("FSDP", "FSDPQwen2ForCausalLM"),
    "zero1": ("DEEPSPEED", "DeepSpeedEngine"),
    "zero2": ("DEEPSPEED", "DeepSpeedEngine"),
    "zero3": ("DEEPSPEED", "DeepSpeedEngine"),
}


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    """The parameters of a folder that loads as a plain model."""
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters())


def distance(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """The largest difference of a parameter relative to its largest entry."""
    assert some.keys() == others.keys()
    return max(((some[name] - others[name]).abs().max() / others[name].abs().max()).item() for name in others)


@pytest.mark.slow
def test_fsdp2_in_half_precision_does_not_round_log_probabilities(tmp_path: Path) -> None:
    launch("fsdp2", RANKS, "half_precision_by_ranks", str(tmp_path), precision="bf16")
    for seen in written_down(tmp_path, RANKS):
        assert {of_reference for of_reference, _ in seen} == {True, False}
        assert all(is_whole for _, is_whole in seen), seen


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Where one process trained, and what it saw."""
    workshop = tmp_path_factory.mktemp("alone")
    return workshop, train_and_resume(list(SETTINGS), workshop, ranks=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.deepspeed if way.startswith("zero") else ()) for way in WAYS]
)
def test_an_engine_trains_and_resumes_as_one_process_does(
    way: str, alone: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    launch(way, RANKS, "engine_training", str(tmp_path), *SETTINGS)
    home, expected = alone
    ranks = written_down(tmp_path, RANKS)
    for name in SETTINGS:
        reference = expected[name]["whole"]
        for seen in ranks:
            whole, resumed = seen[name]["whole"], seen[name]["resumed"]
            assert (seen["ranks"], (whole["engine"], whole["model"])) == (RANKS, WAYS[way])
            assert whole["windows"] == reference["windows"] and len(set(reference["windows"])) > 2
            for figure in ("losses", "grad_norms", "kl"):
                assert whole[figure] == pytest.approx(reference[figure], abs=TOLERANCE), (name, figure)
                assert len(whole[figure]) == STEPS
            assert whole["evaluated"] == reference["evaluated"] == 8

            left = len(resumed["windows"])
            assert 0 < left < len(whole["windows"]) and resumed["windows"] == whole["windows"][-left:]
            assert resumed["losses"] == pytest.approx(whole["losses"], abs=TOLERANCE)
            assert (tmp_path / name / "whole" / f"checkpoint-{RESUMED_FROM}").is_dir()
        trained = weights(tmp_path / name / "whole")
        assert distance(trained, weights(MODELS[name])) > 1000 * TOLERANCE, "hardly moved, so equality proves nothing"
        assert distance(trained, weights(home / name / "whole")) < TOLERANCE
        assert distance(weights(tmp_path / name / "resumed"), trained) < TOLERANCE
