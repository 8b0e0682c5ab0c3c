"""JSON lines, as a run writes them: strict JSON, and a last line that was only partially written is no line.

A last line without its line end is whole where it is JSON: no beginning of an object is.
"""

import gzip
import hashlib
import json
import math
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyzero_trl.messages import shortened
from tinyzero_trl.runs.files import replacing


def plain(value: Any) -> Any:
    """`value` in the types of JSON and YAML; NumPy scalars become Python's, unknown types their text."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence | set | frozenset | np.ndarray) and not isinstance(value, str | bytes):
        return [plain(entry) for entry in value]
    return str(value)


def json_text(record: Mapping[str, Any], indent: int | None = None) -> str:
    """`record` as strict JSON; a figure that is not finite is left out."""
    finite = _without_infinite(plain(record))
    return json.dumps(finite, ensure_ascii=False, allow_nan=False, indent=indent)


def _without_infinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_infinite(entry) for key, entry in value.items() if not _infinite(entry)}
    if isinstance(value, list):
        return [None if _infinite(entry) else _without_infinite(entry) for entry in value]
    return value


def _infinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def drop_partial_line(file: Path) -> None:
    """Cut `file` after its last whole line; one that is only begun was being written when the run was killed.

    What cannot be the beginning of a record stays, for `read_lines` to refuse.
    """
    content = file.read_bytes()
    complete = content.rfind(b"\n") + 1
    last = content[complete:].decode("utf-8", errors="replace")
    if _is_whole(last):
        with file.open("ab") as stream:
            stream.write(b"\n")
    elif complete < len(content) and _is_begun(last):
        os.truncate(file, complete)


def _is_whole(line: str) -> bool:
    """Whether a line without an end is a record all the same."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_begun(line: str) -> bool:
    """Whether a line without an end may be the beginning of a record; a power cut may leave zeros in its place."""
    return line.strip("\0")[:1] in ("", "{")


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file or of the same with .gz, none if both are missing; a partial last line is skipped.

    Raises:
        ValueError: names file, line and remedy where a line is no record.
    """
    packed = _packed(file)
    if not file.exists() and not packed.exists():
        return
    content = file.read_bytes() if file.exists() else _unpacked(packed)
    *lines, last = content.decode("utf-8", errors="replace").split("\n")
    if _is_whole(last) or not _is_begun(last):
        lines.append(last)
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or type(record["step"]) is not int or record["step"] < 0:
                raise TypeError
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(
                f"{file}, line {number}: not a record (a JSON object with a whole `step`): {shortened(line)}; "
                "correct or remove the line"
            ) from error
        yield {sys.intern(name): value for name, value in record.items()}  # else each line has names of its own


def read_figures(file: Path) -> list[dict[str, Any]]:
    """As `read_lines`, of figures alone, in the order of their steps; an accuracy is a share and comes with its cost.

    Raises:
        ValueError: names file, line, figure and value.
    """
    lines = list(read_lines(file))
    for number, line in enumerate(lines, start=1):
        where = f"{file}, line {number}"
        for name in ("tokens", "time_s") if "eval/acc" in line else ():
            if name not in line:
                raise ValueError(f"{where}: {name!r} is missing; give a run whose records are complete")
        for name, value in line.items():
            if not is_finite_number(value):
                raise ValueError(
                    f"{where}: {name!r} is {shortened(value)}, no finite number; correct or remove the line"
                )
        for name in ("tokens", "time_s", "eval/acc"):
            if line.get(name, 0) < 0:
                raise ValueError(f"{where}: {name!r} is {line[name]}, below 0; correct or remove the line")
        if line.get("eval/acc", 0) > 1:
            raise ValueError(f"{where}: 'eval/acc' is {line['eval/acc']}, above 1; correct or remove the line")
        if number > 1 and line["step"] < (before := lines[number - 2]["step"]):
            raise ValueError(f"{where}: step {line['step']} comes after step {before}; put the lines in order")
    return lines


def unpack(file: Path) -> None:
    """Write the lines that are there with .gz alone to `file`, in place of it, so that more can follow.

    The compressed file stays until all lines are on the disk, and `file` appears with all of them.

    Raises:
        ValueError: the compressed file is damaged.
        OSError: the lines cannot be written.
    """
    packed = _packed(file)
    if not file.exists() and packed.exists():
        with replacing(file) as draft:
            draft.write_bytes(_unpacked(packed))
        packed.unlink()


def _packed(file: Path) -> Path:
    return file.with_name(f"{file.name}.gz")


def _unpacked(packed: Path) -> bytes:
    try:
        return gzip.decompress(packed.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{packed} is no complete gzip file ({error}); copy it anew") from error


def read_object(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file, None if there is no file.

    Raises:
        ValueError: if the file holds anything else.
    """
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}; correct or remove it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no JSON object; correct or remove it")
    return content


def is_finite_number(value: Any) -> bool:
    """Whether `value` is a number that a float can hold; true and false count as 1 and 0."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False


def digest_of(content: Any) -> str:
    """The SHA-256 of a value as JSON, by which equal contents are known without keeping them.

    Raises:
        TypeError: it cannot be written as JSON.
    """
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
