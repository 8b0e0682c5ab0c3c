"""Every entry of `gradient_checkpointing_kwargs` is in force in each training pass, also after rollouts are sampled."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.training import WatchedTrainer, train, write_recipe


class WatchedLayers(WatchedTrainer):
    """Writes down, for each training pass, which layers compute their activations anew, and how."""

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        layers = self.model.model.layers
        how = layers[0]._gradient_checkpointing_func
        passes = self.__dict__.setdefault("passes", [])
        passes.append(([layer.gradient_checkpointing for layer in layers], how.keywords))
        return super()._compute_loss(model, inputs)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"every_n_layers": 2}, ([True, False], {"use_reentrant": False})),
        (
            {"every_n_layers": 2, "use_reentrant": False, "preserve_rng_state": False},
            ([True, False], {"use_reentrant": False, "preserve_rng_state": False}),
        ),
    ],
    ids=str,
)
def test_the_layers_that_were_asked_for_compute_anew(tmp_path: Path, given: dict, expected: tuple) -> None:
    settings = {"max_steps": 2, "eval_steps": 1, "save_strategy": "no", "beta": 0.1}
    checkpointing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": given}
    trainer = train(write_recipe(tmp_path, **settings, **checkpointing), WatchedLayers)
    assert trainer.passes == [expected] * 2, "one for each rollout"
