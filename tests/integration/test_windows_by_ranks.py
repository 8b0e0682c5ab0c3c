"""One process and two choose the same windows."""

import pytest
from ranks import run_on_ranks

STRATEGIES = ["success", "signal"]


def windows_on(ranks: int) -> list[dict[str, list[int]]]:
    """The windows that each rank's policy chose, by strategy."""
    chosen: list[dict[str, list[int]]] = run_on_ranks(ranks, "windows_by_ranks.py", *STRATEGIES)
    assert len(chosen) == ranks, "a launch that falls back to one process would prove nothing"
    return chosen


@pytest.mark.slow
def test_one_process_and_two_choose_the_same_windows() -> None:
    [alone], together = windows_on(1), windows_on(2)
    assert together == [alone, alone]
    for strategy, windows in alone.items():
        assert len(set(windows)) > 2, f"{strategy} hardly moved ({windows}), so equality proves nothing"
