"""The benchmark that compares gradients of cut rollouts with those of full ones."""

import argparse
from types import SimpleNamespace
from typing import Any

import gradient_fidelity
import numpy as np
import pytest
import torch
from gradient_fidelity import GROUP, WEIGHTINGS, Gradients, Sampled, compare, fixed, measure, per_group

from tinyzero_trl.generation.completions import Completion

LIMIT, PROMPTS = 8, 6


class Table(torch.nn.Module):
    """A model of which each position has logits of its own, whatever came before."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.randn(16, 5, generator=torch.Generator().manual_seed(0)))

    def forward(self, input_ids: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.logits[: input_ids.size(1)].expand(len(input_ids), -1, -1))


@pytest.fixture
def sampled() -> Sampled:
    random = np.random.default_rng(0)
    lengths = random.integers(1, LIMIT + 2, size=(PROMPTS, GROUP))
    completions = [
        [Completion(tuple(random.integers(0, 5, min(length, LIMIT)).tolist()), "", length > LIMIT) for length in group]
        for group in lengths.tolist()
    ]
    right = (random.random(lengths.shape) < 0.5) & (lengths <= LIMIT)
    return Sampled([[1, 2]] * PROMPTS, completions, right, ["easy", "hard"] * (PROMPTS // 2), LIMIT)


def test_the_full_rollout_is_its_own_measure_and_a_shorter_window_is_farther(sampled: Sampled) -> None:
    limits = {f"{window}" if window < LIMIT else "full": fixed(window)(sampled) for window in (LIMIT, 5, 2)}
    figures = measure(Table(), sampled, slice(0, PROMPTS), limits)
    for weighting in WEIGHTINGS:
        assert figures["full"][weighting]["cosine"] == pytest.approx([1, 1, 1])
        assert figures["full"][weighting]["norm_ratio"] == pytest.approx([1, 1, 1])
        assert 1 > figures["5"][weighting]["cosine"][0] > figures["2"][weighting]["cosine"][0]
    assert 1 > figures["5"]["tokens_over_full"] > figures["2"]["tokens_over_full"]
    assert figures["full"]["successes_kept"] == 1 > figures["2"]["successes_kept"]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_gradient_is_that_of_the_loss_as_trl_defines_it(sampled: Sampled, weighting: str) -> None:
    model, limit = Table(), 5
    gradients = Gradients(model, sampled)
    row = gradients.of(0, [limit])[0][weighting]
    rewards = [
        float(right and each.length_tokens <= limit)
        for each, right in zip(sampled.completions[0], sampled.right[0], strict=True)
    ]
    reward = torch.tensor(rewards)
    advantage = (reward - reward.mean()) / (reward.std() + 1e-4)
    loss = torch.zeros(())
    for each, weight in zip(sampled.completions[0], advantage, strict=True):
        kept = torch.tensor(each.token_ids[:limit])
        logps = model.logits.log_softmax(-1)[1 : 1 + len(kept)].gather(-1, kept[:, None])
        loss = loss + weight * (logps.mean() if weighting == "sequences" else logps.sum())
    (expected,) = torch.autograd.grad(loss, [model.logits])
    np.testing.assert_allclose(gradients.vectors[row], expected.flatten(), atol=1e-5)


def test_cosine_and_norms_are_those_of_the_summed_gradients() -> None:
    vectors = np.random.default_rng(1).normal(size=(4, 7))
    products = np.pad(vectors @ vectors.T, (0, 1))
    rule, full = vectors[0] + vectors[2], vectors[1] + vectors[2] + vectors[3]
    figures = compare(
        products, np.array([0, 2, -1]), np.array([1, 2, 3]), (np.array([1.0, 2, 1]), np.array([3.0, 4, 1]))
    )
    assert figures["cosine"][0] == pytest.approx(rule @ full / np.linalg.norm(rule) / np.linalg.norm(full))
    assert figures["norm_ratio"][0] == pytest.approx(np.linalg.norm(rule) / np.linalg.norm(full) * 8 / 4)
    assert figures["cosine"][1] <= figures["cosine"][0] <= figures["cosine"][2]


def test_the_decision_per_group_meets_the_sampled_groups(sampled: Sampled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_fidelity, "PER_ROLLOUT", 2)
    cut = per_group(argparse.Namespace(limit=LIMIT, seed=0), True, group_rule="plain", initial=3)
    limits = cut(sampled)
    succeeded = [gradient_fidelity.won(sampled, group, 3).any() for group in range(PROMPTS)]
    assert limits.tolist() == [LIMIT if success else 3 for success in succeeded]
