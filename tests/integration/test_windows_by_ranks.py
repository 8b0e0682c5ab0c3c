"""One process and two choose the same windows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STRATEGIES = ["success", "signal"]


def windows_on(ranks: int) -> list[dict[str, list[int]]]:
    """The windows that each rank's policy chose, by strategy."""
    script = Path(__file__).with_name("windows_by_ranks.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    launched = subprocess.Popen(
        [*launch, str(script), *STRATEGIES],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = launched.communicate(timeout=600)
    finally:
        # torchrun ends its workers when it is asked to, not when it is killed.
        launched.terminate()
    assert launched.returncode == 0, errors[-3000:]
    chosen: list[dict[str, list[int]]] = json.loads(output.splitlines()[-1])
    assert len(chosen) == ranks, "a launch that falls back to one process would prove nothing"
    return chosen


@pytest.mark.slow
def test_one_process_and_two_choose_the_same_windows() -> None:
    [alone], together = windows_on(1), windows_on(2)
    assert together == [alone, alone]
    for strategy, windows in alone.items():
        assert len(set(windows)) > 2, f"{strategy} hardly moved ({windows}), so equality proves nothing"
