"""The Slurm script starts one launcher on each machine, with its rank and the address of the first."""

import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from tinyzero_trl.training.recipe.parser import parse_recipe

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "slurm" / "multi_node.sbatch"
# Stand-ins for the two Slurm commands: srun runs its command once for each machine, as that machine would.
SRUN = '#!/bin/bash\nshift\nfor SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done\n'
SCONTROL = '#!/bin/bash\nprintf "first\\nsecond\\n"\n'


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_each_machine_gets_a_launcher_with_its_rank(tmp_path: Path) -> None:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "echo", "SLURM_NNODES": "2"}
    environment |= {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "x[1-2]", "SLURM_GPUS_ON_NODE": "8"}
    recipe = "recipes/countdown_3b_base.yaml"
    command = ["bash", str(SCRIPT), recipe, "--learning_rate", "2e-6"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    first, second = (line.split() for line in done.stdout.splitlines())
    for rank, words in enumerate((first, second)):
        given = dict(pairwise(words))
        assert (given["--machine_rank"], given["--num_machines"], given["--num_processes"]) == (str(rank), "2", "16")
        assert (given["--main_process_ip"], given["--main_process_port"]) == ("first", "23456")
        assert (ROOT / given["--config_file"]).is_file()
    script = first.index("recipes/countdown_adaptive.py")
    assert first[script:] == second[script:]
    arguments = first[script + 1 :]
    _, training, _ = parse_recipe([*arguments, "--use_cpu", "true"])
    assert training.learning_rate == 2e-6


def test_without_a_recipe_it_says_how_it_is_used() -> None:
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert "usage: sbatch" in done.stderr
