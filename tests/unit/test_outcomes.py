"""What a success is, as TRL keeps rewards: in 32 bits."""

import pytest
import torch

from tinyzero_trl.windows.outcomes import is_success, outcomes


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7, 0.9, 0.95, 1.0, 1.1, -0.7])
def test_a_reward_reaches_the_threshold_that_equals_it_in_every_precision(threshold: float) -> None:
    kept = torch.tensor(threshold).item()
    assert is_success(threshold, threshold) and is_success(kept, threshold)
    assert not is_success(threshold - 1e-6, threshold) and is_success(threshold + 1e-6, threshold)


@pytest.mark.filterwarnings("error")
def test_what_is_no_reward_is_no_success() -> None:
    assert outcomes([None, float("nan"), float("-inf"), float("inf"), 1e300], 0.5) == [None, None, False, True, True]
