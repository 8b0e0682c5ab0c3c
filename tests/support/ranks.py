"""Run a module of this folder in processes of its own, on several CPU ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from tinyzero_trl.training.callbacks.safe_points import leave_process_group

ROOT = Path(__file__).parents[2]

_FILE = "rank_{}.json"

# Colocated vLLM in the process of the tests sets them; a program that is launched later would meet on the same port.
_OF_THIS_PROCESS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def run_on_ranks(ranks: int, name: str, *arguments: str, **environment: str) -> Any:
    """What the module `name`, started by torchrun on `ranks` processes, printed as JSON on its last line."""
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    environment["ACCELERATE_USE_CPU"] = "1"
    output = _run([*launch, "--module", f"tests.support.{name}", *arguments], **environment)
    return json.loads(output.splitlines()[-1])


def run_alone(name: str, *arguments: str) -> str:
    """What the module `name`, in a process of its own, printed."""
    return _run([f"tests.support.{name}", *arguments])


def tell(seen: Any) -> None:
    """End a rank of `run_on_ranks`: the first prints what all have `seen`, in their order."""
    everybody = gather_object([seen])
    if PartialState().is_main_process:
        print(json.dumps(everybody), flush=True)
    leave_process_group()


def write_down(seen: Any, folder: Path) -> None:
    """End a rank of `launch`: what it has `seen` goes to a file of its own in `folder`."""
    (folder / _FILE.format(PartialState().process_index)).write_text(json.dumps(seen))
    leave_process_group()


def written_down(folder: Path, ranks: int) -> list[Any]:
    """What each rank has given to `write_down`, in their order."""
    return [json.loads((folder / _FILE.format(rank)).read_text()) for rank in range(ranks)]


def launch(way: str, ranks: int, name: str, *arguments: str, precision: str = "no", **environment: str) -> None:
    """Start the module `name` as users do, by `accelerate launch` with the shipped file for `way`, but in float32."""
    options = ["--config_file", str(ROOT / "configs" / "accelerate" / f"{way}.yaml"), "--num_processes", str(ranks)]
    options += ["--mixed_precision", precision, "--main_process_port", "0"]
    # With it set accelerate runs DDP where DeepSpeed was asked for; the recipes' use_cpu does not do that.
    if way == "ddp":
        environment["ACCELERATE_USE_CPU"] = "1"
    _run(["accelerate.commands.launch", *options, "--module", f"tests.support.{name}", *arguments], **environment)


def _run(module_and_arguments: list[str], **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_THIS_PROCESS}
    variables = inherited | {"OMP_NUM_THREADS": "1", **environment}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    launched = subprocess.Popen(
        [sys.executable, "-m", *module_and_arguments],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = launched.communicate(timeout=900)
    finally:
        # torchrun ends its workers when it is asked to, not when it is killed.
        launched.terminate()
    assert launched.returncode == 0, errors[-3000:]
    return output
