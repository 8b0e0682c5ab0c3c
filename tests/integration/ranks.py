"""Run a script of this folder on several CPU ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_on_ranks(ranks: int, script_name: str, *arguments: str) -> Any:
    """What `script_name`, started by torchrun on `ranks` processes, printed as JSON on its last line."""
    script = Path(__file__).with_name(script_name)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(script.parents[2]), os.environ.get("PYTHONPATH"))))
    launched = subprocess.Popen(
        [*launch, str(script), *arguments],
        env=environment,
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
    return json.loads(output.splitlines()[-1])
