"""A reference that moves with the policy is part of a checkpoint: a resumed run has the same divergence, to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from tests.support.tiny_models import save_tiny_model
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer
from tinyzero_trl.training.saving.synced_reference import REFERENCE

PROMPTS = ["make 9 of 1 2 3", "make 10 of 1 2 3 4", "make 18 of 2 5 4", "make 65 of 7 8 9"]


def train(model: Path, folder: Path, resume_from: Path | None = None, **options: Any) -> AdaptiveGRPOTrainer:
    settings: dict[str, Any] = {
        **{
            "output_dir": str(folder),
            "max_completion_length": 12,
            "num_generations": 4,
            "max_steps": 4,
            "save_steps": 2,
        },
        **{
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-2,
            "bf16": False,
            "use_cpu": True,
            "logging_steps": 1,
        },
        **{"report_to": "none", "lr_scheduler_type": "constant", "gradient_checkpointing": False, "seed": 5},
        **{"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.6},
    }
    trainer = AdaptiveGRPOTrainer(
        str(model),
        lambda completions, **_: [float(len(text) % 2) for text in completions],
        AdaptiveGRPOConfig(**settings | options),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
    )
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    return trainer


def divergences(trainer: AdaptiveGRPOTrainer) -> dict[int, float]:
    return {line["step"]: line["kl"] for line in trainer.state.log_history if "kl" in line}


@pytest.mark.slow
def test_a_resumed_run_has_the_reference_it_was_saved_with(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    unbroken = train(model, tmp_path / "unbroken")
    checkpoint = tmp_path / "unbroken" / "checkpoint-2"
    resumed = train(model, tmp_path / "resumed", checkpoint)
    assert divergences(resumed) == divergences(unbroken)
    for ours, theirs in ((resumed.model, unbroken.model), (resumed.ref_model, unbroken.ref_model)):
        state = theirs.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())

    (checkpoint / REFERENCE).unlink()
    with pytest.raises(ValueError, match=r"^sync_ref_model: the synchronised reference is not in .*checkpoint-2'"):
        train(model, tmp_path / "without", checkpoint)
    fixed = train(model, tmp_path / "fixed", max_steps=2, sync_ref_model=False)
    assert not (tmp_path / "fixed" / "checkpoint-2" / REFERENCE).exists()
    assert divergences(fixed)[2] != divergences(unbroken)[2], "a synchronisation that changes nothing proves nothing"
