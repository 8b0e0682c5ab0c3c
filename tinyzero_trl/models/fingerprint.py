"""What a model is loaded from, told apart by content: a run that goes on must find what it began with."""

import hashlib
from pathlib import Path
from typing import Any

import xxhash

from tinyzero_trl.models.adapters import base_of_adapter
from tinyzero_trl.runs.earlier import MODEL_FILES

COMMIT = "commit"
"""Stands in place of a file for a repository of the Hub."""


def model_files(path: str, model_config: Any) -> dict[str, str]:
    """A digest of each file that weights, tokenizer and chat template are loaded from.

    The digest is XXH3, which takes about as long as reading: nobody makes weights that collide on purpose for a run of
    their own.

    Args:
        path: the folder or Hub id of a model. Of an adapter's folder the base model counts too, under `base/`.
        model_config: the configuration as loaded from there. It knows the commit of a repository of the Hub.

    Returns:
        Digests by the names of files, or `COMMIT` alone for a repository; empty for a model that was made in Python.
    """
    if not Path(path).is_dir():
        commit = getattr(model_config, "_commit_hash", None)
        return {COMMIT: commit} if commit else {}
    found = {file.name: _digest(file) for pattern in MODEL_FILES for file in Path(path).glob(pattern) if file.is_file()}
    base = base_of_adapter(path)
    of_base = {} if base is None else model_files(base, model_config)
    return dict(sorted(found.items())) | {f"base/{name}": digest for name, digest in of_base.items()}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()
