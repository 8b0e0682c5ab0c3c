"""The pictures that an earlier report has drawn into a folder: the next one removes these, and nobody else's."""

import json
from collections.abc import Sequence
from pathlib import Path

from tinyzero_trl.runs.files import write_atomically

LIST = ".drawn.json"


def remove_old_pictures(folder: Path, drawn: Sequence[str]) -> None:
    """Remove the pictures that an earlier report has drawn into `folder` and this one has not; list those of this one.

    Where no list lies beside them, nothing is removed.

    Args:
        folder: where the pictures are.
        drawn: names of this report's pictures, without ending.

    Raises:
        OSError: a picture cannot be removed, or the list not written.
    """
    for name in _listed(folder / LIST):
        if name not in drawn:
            (folder / f"{name}.png").unlink(missing_ok=True)
    write_atomically(folder / LIST, json.dumps(list(drawn), indent=2) + "\n")


def _listed(file: Path) -> list[str]:
    """The names in a list; none that leads out of its folder, and none of a list that is damaged."""
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(names, list):
        return []
    return [name for name in names if isinstance(name, str) and name and Path(name).name == name]
