"""Small Qwen2 models with a tokenizer of their own, warm-started on search traces; one is shipped in the package."""

import os
from pathlib import Path

EMBEDDED = "embedded"
_FOLDER = Path(__file__).parent / "embedded"


def resolve_model(name_or_path: str) -> str:
    """The folder of the embedded model for `embedded`; any other name or path as it is, `~` expanded."""
    return str(_FOLDER) if name_or_path == EMBEDDED else os.path.expanduser(name_or_path)
