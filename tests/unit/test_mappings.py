"""Inner mappings and optimizers: what a library accepts is accepted, what it would refuse later is refused at once."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.preflight.optimizer import check_optimizer


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def config(**values: Any) -> AdaptiveGRPOConfig:
        fitting = {"use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False}
        return AdaptiveGRPOConfig(str(tmp_path), **{**fitting, **values})

    return config


@pytest.mark.parametrize(
    "values",
    [
        {"generation_kwargs": {"no_repeat_ngram_size": 3, "typical_p": 0.9, "num_beams": 1}},
        {"generation_kwargs": {"stop_strings": ["</answer>"], "temperature": 1.0, "num_return_sequences": 1}},
        {"generation_kwargs": '{"suppress_tokens": [3], "min_new_tokens": 2}'},
        {"temperature": 0.7, "generation_kwargs": {"temperature": 0.7}},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
        {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 2}, "max_steps": 9},
        {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0}, "warmup_steps": 0.1},
        {"lr_scheduler_type": "cosine_with_restarts", "max_steps": 1},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 2},
        {"gradient_checkpointing_kwargs": {"use_reentrant": True, "every_n_layers": 2, "offload": True}},
        {"gradient_checkpointing_kwargs": {"use_reentrant": False, "preserve_rng_state": False}},
    ],
    ids=str,
)
def test_what_the_libraries_take_is_accepted(config: Any, values: dict[str, Any]) -> None:
    config(**values)


def test_a_trial_of_generation_uses_no_random_number_of_the_run(config: Any) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    config(generation_kwargs={"typical_p": 0.9})
    assert torch.rand(1) == expected


@pytest.mark.parametrize(
    ("optim", "optim_args"),
    [
        ("adamw_torch", None),
        ("adamw_torch_fused", ""),
        ("adafactor", None),
        ("sgd", "momentum=0.5, nesterov=true"),
        ("sgd", "momentum=0, weight_decay=0"),
        ("rmsprop", "alpha=0.99"),
        ("adagrad", "lr_decay=0.1"),
    ],
)
def test_an_optimizer_that_can_be_built_is_accepted(config: Any, optim: str, optim_args: str | None) -> None:
    check_optimizer(config(optim=optim, optim_args=optim_args))


@pytest.mark.parametrize(
    ("optim", "optim_args", "message"),
    [
        ("lomo", None, r"optim: 'lomo' cannot be built \(.*lomo_optim.*\); remedy that, or choose adamw_torch"),
        ("adamw_torch_xla", None, r"optim: 'adamw_torch_xla' cannot be built"),
        ("adamw_torch", "betas=0.5", r"optim_args: 'betas' has no effect on optim 'adamw_torch'; remove it"),
        ("sgd", "momentum=0.5,momentun=1", r"optim_args: 'momentun' has no effect on optim 'sgd'"),
        ("sgd", "momentum", r"optim_args: 'momentum' is no list of pairs"),
        ("sgd", "momentum=-1", r"optim_args: 'momentum=-1' is refused by optim 'sgd' \(Invalid momentum"),
    ],
)
def test_an_optimizer_that_cannot_is_refused(config: Any, optim: str, optim_args: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        check_optimizer(config(optim=optim, optim_args=optim_args))


def test_a_run_by_epochs_tries_its_schedule_too(config: Any) -> None:
    with pytest.raises(ValueError, match=r"^lr_scheduler_type: 'inverse_sqrt' cannot be built with .*'gamma'"):
        config(lr_scheduler_type="inverse_sqrt", lr_scheduler_kwargs={"gamma": 1})
