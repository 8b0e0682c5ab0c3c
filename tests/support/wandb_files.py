"""What an offline W&B run was given: its file is a log of LevelDB, whose records are W&B's own messages."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK = 32768  # bytes


def messages(file: Path) -> Iterator[Any]:
    """W&B's `Record`s of a file, in the order in which they were written.

    A message lies in one piece (type 1) or in several (first 2, middle 3, last 4), each after checksum, length and
    type. The first block has 7 bytes ahead. A run that was killed ends in the middle of a message.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, message = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := _BLOCK - place % _BLOCK) < 7:  # no piece begins in the last bytes of a block
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        message += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(message)
            message = b""
            yield record


def history(file: Path) -> list[dict[str, Any]]:
    """The rows that were logged."""
    rows = [_values(record.history.item) for record in messages(file) if record.HasField("history")]
    return [row for row in rows if row]


def summary(file: Path) -> dict[str, Any]:
    """What the table of runs shows."""
    found: dict[str, Any] = {}
    for record in messages(file):
        found |= _values(record.summary.update)
    return found


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
