"""Files are replaced whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def file_on_path(folder: Path) -> Path | None:
    """The file that stands where a folder, or one that holds it, would have to be; None if the folder can be made."""
    return next((each for each in (folder, *folder.parents) if each.is_file()), None)


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Replace `file` in one step: whoever reads it sees the old content or the new, never a part.

    Yields the path to write to. When the body fails, nothing of it stays.
    """
    draft = file.with_name(f".{file.name}.draft")
    draft.unlink(missing_ok=True)  # in a folder from elsewhere it may be a link to another place
    try:
        yield draft
        with draft.open("rb+") as stream:
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def write_atomically(file: Path, text: str) -> None:
    """Replace `file` by one that holds `text`, in one step."""
    with replacing(file) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def no_empty_folder_on_failure(folder: Path) -> Iterator[None]:
    """Whoever makes the folder inside leaves none behind, empty, when the body fails."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):
                each.rmdir()
        raise
