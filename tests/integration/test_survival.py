"""A run that is killed or stopped and started again ends as if nothing had happened, bit for bit.

A handful of kills here; `python -m tests.support.killing --help` says how to have more of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.training import ROOT


def hit(folder: Path, *arguments: str) -> dict:
    """What `tests/support/killing.py` reports; it fails if a run that was hit ends otherwise than the one in peace."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.support.killing", str(folder), *arguments]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout[-500:]}\n{done.stderr[-3000:]}"
    report: dict = json.loads(done.stdout.splitlines()[-1])
    assert report["windows"] > 1, "windows that never move would prove nothing"
    return report


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_one_in_peace(tmp_path: Path) -> None:
    report = hit(tmp_path, "--kills", "6", "--strategy", "signal")
    assert sum(report["hit"].values()) == 6


@pytest.mark.slow
@pytest.mark.parametrize("ranks", ["1", "2"])
def test_a_run_killed_between_stages_ends_as_one_in_peace(tmp_path: Path, ranks: str) -> None:
    report = hit(tmp_path, "--kills", "7", "--ranks", ranks, "--strategy", "group")
    assert report["hit"].keys() & {"between stages", "rollout"} and sum(report["hit"].values()) == 7


@pytest.mark.slow
def test_two_ranks_stop_together_when_one_is_told_to_and_end_as_ranks_in_peace(tmp_path: Path) -> None:
    report = hit(tmp_path, "--kills", "4", "--ranks", "2", "--by", "SIGTERM")
    assert (sum(report["hit"].values()), report["ranks"]) == (4, 2)
    logs = [log.read_text() for log in tmp_path.glob("killed_*.0.log")]
    assert any("to go on, give the same command with --resume auto" in log for log in logs)
