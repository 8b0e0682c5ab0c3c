"""The decision per group against an oracle, on a small version of the published simulation."""

import pytest
from group_learners import SCENARIOS
from simulate_groups import Settings, simulate

SMALL = Settings(rollouts=60)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [each for each in SCENARIOS if each.name == "many lengths, looking late, label"])
def test_a_label_saves_many_tokens_for_few_successes(scenario) -> None:
    figures = simulate(scenario, SMALL, seed=0)
    assert figures["points_lost"] <= 1.0
    assert figures["tokens_over_oracle"] <= 1.25  # sixty rollouts have to pay for the first, in which all go on
    assert figures["tokens_over_fixed"] <= 0.8
