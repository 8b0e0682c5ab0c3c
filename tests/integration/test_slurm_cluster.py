"""The Slurm script under Slurm itself: two nodes on this machine, as its own daemons make them."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support import slurm
from tests.support.training import ROOT, write_recipe
from tinyzero_trl.runs.records import read_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(slurm.missing()),
        reason=f"needs {', '.join(slurm.missing())} (on Debian: apt install munge slurmctld slurmd slurm-client)",
    ),
]
SCRIPT = str(ROOT / "recipes" / "slurm" / "multi_node.sbatch")


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder, slurm.cluster(Path(folder)) as environment:
        yield environment


def submit(cluster: dict[str, str], log: Path, *words: str, options: tuple[str, ...] = (), **environment: str) -> str:
    """Run the script as a job; what it has written to its log."""
    command = ["sbatch", "--wait", f"--output={log}", *options, SCRIPT, *words]
    job = subprocess.run(
        command, env=cluster | environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400
    )
    assert job.returncode == 0, job.stderr + log.read_text()[-3000:]
    return log.read_text()


def test_each_node_gets_a_launcher_for_all_of_its_gpus(cluster: dict[str, str], tmp_path: Path) -> None:
    said = submit(cluster, tmp_path / "log", "recipes/countdown_3b_base.yaml", "--learning_rate", "2e-6", PYTHON="echo")
    launchers = [dict(pairwise(line.split())) for line in said.splitlines() if "accelerate.commands.launch" in line]
    assert sorted(given["--machine_rank"] for given in launchers) == ["0", "1"]
    for given in launchers:
        assert (given["--num_machines"], given["--num_processes"]) == ("2", str(2 * slurm.GPUS))
        assert given["--main_process_ip"] == slurm.NODES[0]
        assert given["--learning_rate"] == "2e-6"


def test_two_nodes_train_together(cluster: dict[str, str], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, per_device_train_batch_size=8, per_device_eval_batch_size=4, max_steps=2)
    on_cpus = {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    one_each = ("--gpus-per-node=1", "--cpus-per-task=1")
    launch_file = {"LAUNCH_FILE": "configs/accelerate/ddp.yaml"}
    said = submit(cluster, tmp_path / "log", str(recipe), options=one_each, **on_cpus, **launch_file)
    assert "step 2/2" in said
    run = read_run(tmp_path / "run")
    assert [line["step"] for line in run.metrics] == [1, 2]
    assert run.environment["processes"] == 2
