"""The limit reaches what the engine reads, comes back, and leaves the normaliser of the loss alone."""

from types import SimpleNamespace
from typing import Any

import pytest

from tinyzero_trl.training.rollout.completion_limit import CompletionLimit

ENGINES = {
    "transformers": SimpleNamespace(use_vllm=False, generation_config=SimpleNamespace(max_new_tokens=256)),
    "vllm": SimpleNamespace(use_vllm=True, vllm_generation=SimpleNamespace(max_completion_length=256)),
}


def read_by(trainer: Any) -> int:
    if trainer.use_vllm:
        return trainer.vllm_generation.max_completion_length
    return trainer.generation_config.max_new_tokens


@pytest.mark.parametrize("trainer", ENGINES.values(), ids=ENGINES)
def test_the_limit_holds_inside_and_the_former_one_comes_back(trainer: Any) -> None:
    limit = CompletionLimit(trainer)
    assert limit.tokens == 256
    with pytest.raises(KeyError), limit.at(32):
        assert limit.tokens == read_by(trainer) == 32
        raise KeyError("a rollout that fails")
    assert limit.tokens == read_by(trainer) == 256
    assert not hasattr(trainer, "max_completion_length")
