"""One process, two, and one on each of two machines are the same run, with our trainer and with TRL's own."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.ranks import run_on_ranks
from tests.support.windows_by_ranks import train_all

STRATEGIES = ["success", "signal", "stock:success", "stock:signal"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, list[float]]]:
    """Windows and losses of one process, by strategy."""
    results = train_all(STRATEGIES)
    for strategy, seen in results.items():
        assert len(set(seen["windows"])) > 2, f"{strategy} hardly moved ({seen['windows']}), so equality proves nothing"
        assert len(seen["losses"]) == len(seen["windows"])
    return results


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


class Machine(NamedTuple):
    """How a command is started on one of two machines, and what its environment has there."""

    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}


class Network(NamedTuple):
    """Two machines, and the address of the first."""

    address: str
    machines: tuple[Machine, Machine]


@contextmanager
def one_host() -> Iterator[Network]:
    yield Network("127.0.0.1", (Machine(), Machine()))


@contextmanager
def two_namespaces() -> Iterator[Network]:
    """Two network namespaces with a link between them: neither reaches the loopback of the other."""
    names, devices = ([f"{kind}{os.getpid()}{place}" for place in "ab"] for kind in ("tz", "v"))

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", devices[0], "netns", names[0], "type", "veth", "peer", "name", devices[1], "netns", names[1])
        for number, (name, device) in enumerate(zip(names, devices, strict=True), start=1):
            ip("-n", name, "addr", "add", f"10.231.7.{number}/24", "dev", device)
            ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        _delete(names)
        pytest.skip(f"network namespaces cannot be made here: {error}")
    try:
        # Without it gloo asks for the address of the host's own name, which may be the loopback's.
        first, second = (
            Machine(("ip", "netns", "exec", name), {"GLOO_SOCKET_IFNAME": device})
            for name, device in zip(names, devices, strict=True)
        )
        yield Network("10.231.7.1", (first, second))
    finally:
        _delete(names)


def _delete(namespaces: Sequence[str]) -> None:
    for name in namespaces:
        with suppress(OSError):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("network", [one_host, two_namespaces])
def test_two_machines_with_a_launcher_each_are_the_same_run(
    network: Callable[[], AbstractContextManager[Network]], alone: dict[str, Any]
) -> None:
    """As recipes/slurm/ starts them: an `accelerate launch` on each machine, meeting at the address of the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2"]
    launch += ["--num_processes", "2", "--main_process_port", port]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--rdzv_backend", "static", "--same_network"]
    script = ["--module", "tests.support.windows_by_ranks", *STRATEGIES]
    with network() as (address, machines), ExitStack() as at_the_end:
        launchers = [
            subprocess.Popen(
                [*prefix, *launch, "--main_process_ip", address, "--machine_rank", str(rank), *script],
                env=environment | dict(own),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, (prefix, own) in enumerate(machines)
        ]
        for launcher in launchers:
            at_the_end.callback(launcher.terminate)
        answers = [launcher.communicate(timeout=300) for launcher in launchers]
    for launcher, (_, errors) in zip(launchers, answers, strict=True):
        assert launcher.returncode == 0, errors[-3000:]
    assert_same(alone, json.loads(answers[0][0].splitlines()[-1]))
