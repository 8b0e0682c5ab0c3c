"""One process, two, and one on each of two machines are the same run, with our trainer and with TRL's own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import run_on_ranks

STRATEGIES = ["success", "signal", "stock:success", "stock:signal"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, list[float]]]:
    """Windows and losses of one process, by strategy."""
    [results] = run_on_ranks(1, "windows_by_ranks", *STRATEGIES)
    for strategy, seen in results.items():
        assert len(set(seen["windows"])) > 2, f"{strategy} hardly moved ({seen['windows']}), so equality proves nothing"
        assert len(seen["losses"]) == len(seen["windows"])
    return dict(results)


def assert_same(alone: dict[str, Any], together: list[dict[str, Any]]) -> None:
    assert len(together) == 2, "a launch that falls back to one process would prove nothing"
    for ranks in together:
        for strategy, seen in ranks.items():
            assert seen["windows"] == alone[strategy]["windows"]
            # Transformers rounds what it logs to four digits after the first.
            assert seen["losses"] == pytest.approx(alone[strategy]["losses"], rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_one_process_and_two_are_the_same_run(alone: dict[str, Any]) -> None:
    assert_same(alone, run_on_ranks(2, "windows_by_ranks", *STRATEGIES))


def test_stock_trl_with_a_controller_is_the_same_run(alone: dict[str, Any]) -> None:
    for strategy in ("success", "signal"):
        assert alone[f"stock:{strategy}"]["windows"] == alone[strategy]["windows"]
        assert alone[f"stock:{strategy}"]["losses"] == pytest.approx(alone[strategy]["losses"], rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_two_machines_with_a_launcher_each_are_the_same_run(alone: dict[str, Any]) -> None:
    """As recipes/slurm/ starts them: an `accelerate launch` on each machine, meeting at the address of the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2"]
    launch += ["--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--rdzv_backend", "static", "--same_network"]
    script = ["--module", "tests.support.windows_by_ranks", *STRATEGIES]
    machines = [
        subprocess.Popen(
            [*launch, "--machine_rank", str(rank), *script],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        answers = [machine.communicate(timeout=300) for machine in machines]
    finally:
        for machine in machines:
            machine.terminate()
    for machine, (_, errors) in zip(machines, answers, strict=True):
        assert machine.returncode == 0, errors[-3000:]
    assert_same(alone, json.loads(answers[0][0].splitlines()[-1]))
