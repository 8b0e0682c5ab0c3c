"""One program at a time in a folder. The operating system holds the lock, so that it ends with the process."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

# The underscore keeps the file out of pushes to the Hub. An old file without a process that holds it locks nothing.
LOCK = "_lock"
_NO_LOCKS_HERE = (errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def locked(folder: Path, field: str, *, name: str = LOCK) -> Iterator[None]:
    """Hold the lock of `folder`, which is made if it is missing and removed again if it is left empty.

    Args:
        folder: what one program alone may write to.
        field: the option that names the folder, for the message.
        name: the lock's file in the folder.

    Raises:
        ValueError: another program holds the lock.
        OSError: the folder cannot be written.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    lock = FileLock(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"{field}: {str(folder)!r} is in use by another program; wait until it ends, or name another folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
            logger.warning("%s: the file system of %s has no locks; start no other program there", field, folder)
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows removes no file that is open; there the library does it
                (folder / name).unlink()
            lock.release()
        for each in made:
            with suppress(OSError):
                each.rmdir()
