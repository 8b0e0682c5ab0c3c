"""Where theory says that two policies are one, they are: no KL divergence at first, importance ratios of exactly 1."""

from collections import defaultdict

import pytest
import torch
from fixed_rollouts import train
from torch import Tensor
from trl import GRPOTrainer

from tinyzero_trl.training.loss.exact_loss import ExactLossTrainer

# A row of another length in its pass costs a rounding error or two: largest distance of two log-probabilities, in nats.
ROUNDING = 1e-5
LEARNING_RATE = 1e-3  # so that the second step on a rollout can be told from the first, and from rounding


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[int, list[Tensor]]]:
    """By what is compared with the policy and by optimizer step: differences of the trained tokens of every pass."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    seen: dict[str, dict[int, list[Tensor]]] = {"ref": defaultdict(list), "old": defaultdict(list)}
    compute_loss = GRPOTrainer._compute_loss

    def watched(self, model, inputs):
        loss = compute_loss(self, model, inputs)
        trained = inputs["completion_mask"].bool()
        for what, differences in seen.items():
            others = inputs.get(f"{what}_per_token_logps", self._pass_logps)
            differences[self.state.global_step].append((others - self._pass_logps)[trained])
        return loss

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", watched)
    return seen


def largest(differences: dict[int, list[Tensor]], step: int) -> float:
    tokens = torch.cat(differences[step])
    assert tokens.numel() > 0
    return float(tokens.abs().max())


@pytest.mark.parametrize("budget", [None, 40, 100])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_the_first_step_has_a_kl_divergence_of_exactly_0(passes, budget: int | None, loss_type: str) -> None:
    settings = {"gradient_accumulation_steps": 1, "max_tokens_per_micro_batch": budget, "loss_type": loss_type}
    trainer = train(ExactLossTrainer, beta=0.1, learning_rate=LEARNING_RATE, optimizer_steps=2, **settings)
    assert (len(passes["ref"][0]) > 1) == (budget is not None)
    assert largest(passes["ref"], 0) == 0.0
    assert largest(passes["ref"], 1) > 10 * ROUNDING
    first, second = (line["kl"] for line in trainer.state.log_history if "kl" in line)
    assert first == 0.0 < second


def test_where_micro_batches_are_cut_otherwise_than_the_references_it_is_0_up_to_rounding(passes) -> None:
    settings = {"gradient_accumulation_steps": 2, "max_tokens_per_micro_batch": 60, "loss_type": "dapo"}
    train(ExactLossTrainer, beta=0.1, learning_rate=LEARNING_RATE, optimizer_steps=1, **settings)
    assert largest(passes["ref"], 0) < ROUNDING


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(
    "reuse",
    [
        pytest.param({"num_iterations": 2}, id="two-iterations"),
        pytest.param({"steps_per_generation": 4}, id="two-steps-per-generation"),
        pytest.param({"num_iterations": 2, "loss_type": "bnpo"}, id="bnpo"),
        pytest.param({"num_iterations": 2, "importance_sampling_level": "sequence"}, id="sequence-level"),
    ],
)
def test_the_first_step_on_a_rollout_has_ratios_of_exactly_1(passes, beta: float, reuse: dict) -> None:
    settings = {"gradient_accumulation_steps": 2, "max_tokens_per_micro_batch": 60, "loss_type": "grpo", "beta": beta}
    train(ExactLossTrainer, learning_rate=LEARNING_RATE, optimizer_steps=4, **(settings | reuse))
    assert [largest(passes["old"], step) == 0.0 for step in range(4)] == [True, False, True, False]
    assert largest(passes["old"], 1) > 10 * ROUNDING, "old log-probabilities are used where they differ"
