"""What a model may be called: the name of a shipped one, such as `embedded`, a GGUF file, a folder, or a Hub id."""

import os
from pathlib import Path

from tinyzero_trl.models import gguf
from tinyzero_trl.models.toy import SHIPPED


def resolve_model(name: str) -> str:
    """The folder that a name stands for, or the Hub id that it is.

    Args:
        name: A shipped model (`embedded`, `embedded-impatient`, `embedded-demo`, `embedded-lengths`); the path of a
            GGUF file, whose weights are unpacked once; a folder; or a Hub id.

    Raises:
        ValueError: a misspelled name of a shipped model, or a GGUF file that cannot be read.
    """
    if name in SHIPPED:
        return str(SHIPPED[name])
    if name.startswith("embedded") and "/" not in name and not os.path.exists(name):
        raise ValueError(f"model: {name!r} is none of the models of this package; use one of {', '.join(SHIPPED)}")
    path = os.path.expanduser(name)
    return str(gguf.unpack(path)) if gguf.is_gguf(path) else path


def is_path(name: str) -> bool:
    """Whether a name can be that of a file or folder alone: a Hub id is one word, or an owner and a word."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def name_of(path: str) -> str:
    """The name of the shipped model whose folder this is; any other path or Hub id as it is."""
    return next((name for name, folder in SHIPPED.items() if Path(path) == folder), path)
