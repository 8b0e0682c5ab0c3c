"""Where theory says that two policies are one, they are: no KL divergence at first, importance ratios of exactly 1."""

from collections import defaultdict

import pytest
import torch
from torch import Tensor
from trl import GRPOTrainer

from tests.support.fixed_rollouts import train
from tinyzero_trl import AdaptiveGRPOTrainer
from tinyzero_trl.training.loss.exact_loss import ExactLoss

# Another row length in a micro-batch costs a rounding error or two: largest distance of two log-probabilities, in nats.
ROUNDING = 1e-5
LEARNING_RATE = 1e-3  # so that the second step on a rollout can be told from the first, and from rounding


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[int, list[Tensor]]]:
    """By what is compared with the policy and by optimizer step: differences of each micro-batch's trained tokens."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    seen: dict[str, dict[int, list[Tensor]]] = {"ref": defaultdict(list), "old": defaultdict(list)}
    compute_loss, log_probs = GRPOTrainer._compute_loss, ExactLoss.log_probs
    policy: list[Tensor] = []

    def noted(self, *args, **options):
        outputs = log_probs(self, *args, **options)
        if torch.is_grad_enabled():
            policy[:] = [outputs[0].detach()]
        return outputs

    def watched(self, model, inputs):
        loss = compute_loss(self, model, inputs)
        trained = inputs["completion_mask"].bool()
        for what, differences in seen.items():
            others = inputs.get(f"{what}_per_token_logps", policy[0])
            differences[self.state.global_step].append((others - policy[0])[trained])
        return loss

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", watched)
    monkeypatch.setattr(ExactLoss, "log_probs", noted)
    return seen


def largest(differences: dict[int, list[Tensor]], step: int) -> float:
    tokens = torch.cat(differences[step])
    assert tokens.numel() > 0
    return float(tokens.abs().max())


@pytest.mark.parametrize("budget", [None, 40, 100])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_the_first_step_has_a_kl_divergence_of_exactly_0(compared, budget: int | None, loss_type: str) -> None:
    settings = {"gradient_accumulation_steps": 1, "max_tokens_per_micro_batch": budget, "loss_type": loss_type}
    trainer = train(AdaptiveGRPOTrainer, beta=0.1, learning_rate=LEARNING_RATE, optimizer_steps=2, **settings)
    assert (len(compared["ref"][0]) > 1) == (budget is not None)
    assert largest(compared["ref"], 0) == 0.0
    assert largest(compared["ref"], 1) > 10 * ROUNDING
    first, second = (line["kl"] for line in trainer.state.log_history if "kl" in line)
    assert first == 0.0 < second


def test_where_micro_batches_are_cut_otherwise_than_the_references_it_is_0_up_to_rounding(compared) -> None:
    settings = {"gradient_accumulation_steps": 2, "max_tokens_per_micro_batch": 60, "loss_type": "dapo"}
    train(AdaptiveGRPOTrainer, beta=0.1, learning_rate=LEARNING_RATE, optimizer_steps=1, **settings)
    assert largest(compared["ref"], 0) < ROUNDING


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
def test_the_first_step_on_a_rollout_has_ratios_of_exactly_1(compared, beta: float, reuse: dict) -> None:
    settings = {"gradient_accumulation_steps": 2, "max_tokens_per_micro_batch": 60, "loss_type": "grpo", "beta": beta}
    train(AdaptiveGRPOTrainer, learning_rate=LEARNING_RATE, optimizer_steps=4, **(settings | reuse))
    assert [largest(compared["old"], step) == 0.0 for step in range(4)] == [True, False, True, False]
    assert largest(compared["old"], 1) > 10 * ROUNDING, "old log-probabilities are used where they differ"
