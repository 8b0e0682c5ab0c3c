"""A Slurm cluster of two nodes on this machine, by Slurm's own daemons."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
GPUS = 8
NODES = ("127.0.0.1", "127.0.0.2")  # their names are their addresses: no name has to be made known to the system

_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=127.0.0.[1-2] NodeHostname={host} NodeAddr=127.0.0.[1-2] Port=[{ports[1]},{ports[2]}] CPUs=64 Gres=gpu:{gpus}
PartitionName=all Nodes=127.0.0.[1-2] Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs of Slurm that are not installed."""
    return [name for name in PROGRAMS if not _found(name)]


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Within it the cluster runs. Gives the environment in which Slurm's commands find it.

    Args:
        folder: for its files; a short path, since it holds a socket.
    """
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    for number in range(GPUS):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n")
    host, user = socket.gethostname().split(".")[0], getpass.getuser()
    configuration = folder / "slurm.conf"
    configuration.write_text(
        _CONFIGURATION.format(folder=folder, host=host, user=user, ports=_free_ports(3), gpus=GPUS)
    )
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    munge = {"key-file": key.name, "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
    munge["seed-file"] = "munge.seed"
    commands = [["munged", "--force", "--foreground", *(f"--{name}={folder / file}" for name, file in munge.items())]]
    commands += [["slurmctld", "-D", "-f", str(configuration)]]
    commands += [["slurmd", "-D", "-f", str(configuration), "-N", node] for node in NODES]
    with ExitStack() as daemons:
        for name, *options in commands:
            daemon = subprocess.Popen(
                [_found(name), *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            daemons.callback(daemon.wait)
            daemons.callback(daemon.terminate)
        _wait_for_nodes(environment)
        yield environment


def _wait_for_nodes(environment: dict[str, str]) -> None:
    command = [_found("sinfo"), "--noheader", "--format=%D %t"]
    for _ in range(60):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.stdout.split() == [str(len(NODES)), "idle"]:
            return
        time.sleep(0.5)
    raise TimeoutError(f"the nodes did not become idle: {done.stdout} {done.stderr}")


def _found(name: str) -> str:
    """Daemons lie where only administrators look by default; empty if the program is not installed."""
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])) or ""


def _free_ports(count: int) -> list[int]:
    with ExitStack() as sockets:
        free = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in free:
            each.bind(("127.0.0.1", 0))
        return sorted(each.getsockname()[1] for each in free)
