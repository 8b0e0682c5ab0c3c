"""The guard alone: which numbers make a step a faulty one, what becomes of its gradient, and when it gives up."""

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from tinyzero_trl.training.fault_tolerance import FAULTY_BATCH, FiniteNumbersGuard, NonFiniteError

FINE = {"loss": 0.5, "grad_norm": 1.0, "rewards": [[1.0], [0.0]]}
NAN, INF = float("nan"), float("inf")


def batch(first: int) -> dict:
    return {
        "prompt_ids": torch.tensor([[first], [first + 1]]),
        "completion_ids": torch.tensor([[7], [8]]),
        "advantages": torch.tensor([1.0, NAN]),
        "num_items_in_batch": torch.tensor(2),
    }


def step(guard: FiniteNumbersGuard, number: int = 1, **numbers) -> tuple[bool, bool]:
    """Whether the step is skipped, and whether its gradient is still there."""
    given = {**FINE, **numbers}
    model = torch.nn.Linear(2, 2)
    model(torch.ones(2)).sum().backward()
    guard.watch_rewards(torch.tensor(given["rewards"]))
    guard.watch_loss(torch.tensor(given["loss"], requires_grad=True))
    skipped = guard.drop_broken_step(
        model, given["grad_norm"], step=number, rollout=[batch(1), batch(3)], decode=lambda ids: [str(ids.tolist())]
    )
    return skipped, model.weight.grad is not None


@pytest.fixture
def guard(tmp_path: Path) -> FiniteNumbersGuard:
    return FiniteNumbersGuard(Accelerator(cpu=True), 2, tmp_path)


@pytest.mark.parametrize(
    "faulty",
    [
        *({"loss": NAN}, {"loss": INF}, {"grad_norm": torch.tensor(INF)}, {"grad_norm": NAN}),
        {"rewards": [[INF], [0.0]]},
    ],
)
def test_a_number_that_is_not_finite_costs_the_gradient_of_its_step_alone(guard: FiniteNumbersGuard, faulty) -> None:
    assert step(guard) == (False, True)
    assert step(guard, **faulty) == (True, False)
    assert step(guard) == (False, True)


@pytest.mark.parametrize("has_looked", [False, True], ids=["unscaled by the guard", "unscaled with the norm"])
@pytest.mark.parametrize("faulty", [{"rewards": [[INF], [0.0]]}, {"loss": INF}])
def test_a_gradient_scaler_takes_no_step_that_is_skipped(faulty: dict, has_looked: bool, tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer, scaler = torch.optim.AdamW(model.parameters(), weight_decay=0.1), torch.amp.GradScaler("cpu")
    accelerator = Accelerator(cpu=True)
    accelerator.scaler, accelerator.unscale_gradients = scaler, lambda: scaler.unscale_(optimizer)
    before = model.weight.detach().clone()
    guard = FiniteNumbersGuard(accelerator, 2, tmp_path)
    for number, is_faulty in ((1, True), (2, False)):
        given = FINE | (faulty if is_faulty else {})
        scaler.scale(model(torch.ones(2)).sum()).backward()
        if has_looked:
            scaler.unscale_(optimizer)
        guard.watch_rewards(torch.tensor(given["rewards"]))
        guard.watch_loss(torch.tensor(given["loss"]))
        assert guard.drop_broken_step(model, 1.0, step=number, rollout=[], decode=lambda ids: []) is is_faulty
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(model.weight, before) is is_faulty


@pytest.mark.parametrize("fine", [{"grad_norm": None}, {"rewards": [[NAN], [0.0]]}, {"rewards": [[NAN], [NAN]]}])
def test_a_norm_that_is_not_measured_and_a_row_without_score_are_no_faults(guard: FiniteNumbersGuard, fine) -> None:
    assert step(guard, **fine) == (False, True)


def test_too_many_in_a_row_save_the_batch_and_end_training(guard: FiniteNumbersGuard, tmp_path: Path) -> None:
    for number, loss in enumerate([NAN, NAN, 0.5, NAN, NAN], start=1):
        step(guard, number, loss=loss)
    assert not (tmp_path / FAULTY_BATCH).exists()
    with pytest.raises(NonFiniteError, match=r"^step 6: loss not finite, 3 optimizer steps in a row \(max_skipped_ste"):
        step(guard, 6, loss=NAN)
    tensors = load_file(tmp_path / FAULTY_BATCH / "rank_0.safetensors")
    assert tensors["prompt_ids"].tolist() == [[1], [2], [3], [4]]
    rows = json.loads((tmp_path / FAULTY_BATCH / "rank_0.json").read_text())
    assert rows["prompts"] == ["[[1], [2], [3], [4]]"]
    assert rows["advantages"] == ["1.0", "nan", "1.0", "nan"]


def test_a_fault_of_an_interrupted_step_is_forgotten_when_a_training_begins(guard: FiniteNumbersGuard) -> None:
    guard.watch_loss(torch.tensor(NAN))
    guard.watch_rewards(torch.tensor([[INF]]))
    guard.start_over()
    assert step(guard) == (False, True)
    assert step(guard, loss=NAN) == step(guard, loss=NAN) == (True, False)
    guard.start_over()
    assert step(guard, loss=NAN) == (True, False), "two are allowed in a row, and the row begins anew"
