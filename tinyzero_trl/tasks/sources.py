"""Rows of a file, a folder or the Hub, as they are found: unchecked."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_FORMATS = (".parquet", ".jsonl", ".json")

Rows = tuple[str, Iterable[Mapping[str, Any]]]
"""The name of a file, and its rows."""

Select = Callable[[Iterable[str]], list[str]]
"""Chooses the columns to read among those that are there, or raises ValueError."""


def read_rows(source: str, split: str, select: Select) -> Iterator[Rows]:
    """The rows of one split, file by file, with the columns that `select` chooses.

    Raises:
        ValueError: the source is no file, folder or Hub id, has no such split or column, or cannot be read.
        OSError: a file cannot be opened.
    """
    path = Path(source)
    if not source:
        raise ValueError("dataset: '' names nothing; give a file, a folder or the id (owner/name) of a Hub data set")
    if path.is_file():
        yield _read_file(path, select)
    elif path.is_dir():
        for file in _files_of_split(path, split):
            yield _read_file(file, select)
    elif path.suffix in _FORMATS or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ValueError(
            f"dataset: {source!r} is no file or folder here, nor the id (owner/name) of a Hub data set; check the path"
        )
    else:
        yield _read_hub(source, split, select)


def _files_of_split(folder: Path, split: str) -> list[Path]:
    for name in (f"{split}.parquet", f"{split}.jsonl", f"{split}.json"):
        if (folder / name).is_file():
            return [folder / name]
    shards = sorted(folder.glob(f"{split}-*.parquet"))
    if not shards:
        raise ValueError(
            f"{folder}: has no {split}.parquet, {split}.jsonl, {split}.json or {split}-*.parquet; "
            "choose another folder or split"
        )
    return shards


def _read_file(path: Path, select: Select) -> Rows:
    if path.suffix == ".parquet":
        return str(path), _read_parquet(path, select)
    if path.suffix == ".jsonl":
        lines = path.read_bytes().splitlines()
        return str(path), _checked(path, [_parse_json(path, line) for line in lines if line.strip()], select)
    if path.suffix == ".json":
        return str(path), _checked(path, _parse_json(path, path.read_bytes()), select)
    raise ValueError(f"{path}: is none of {', '.join(_FORMATS)}; convert it to one of them")


def _parse_json(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no valid JSON: {_one_line(error)}; fix or replace it") from None


def _checked(path: Path, rows: Any, select: Select) -> Iterable[Mapping[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: must hold objects with the task's columns: a list of them, or one a line (.jsonl)")
    _select(path, set().union(*rows), select)
    return rows


def _read_parquet(path: Path, select: Select) -> Iterable[Mapping[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        names = _select(path, pyarrow.parquet.read_schema(path).names, select)
        return pyarrow.parquet.read_table(path, columns=names, partitioning=None).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:  # damage inside a page is an OSError
        raise ValueError(f"{path}: is no readable parquet file: {_one_line(error)}; write it anew") from None


def _read_hub(identifier: str, split: str, select: Select) -> Rows:
    import datasets

    try:
        rows = datasets.load_dataset(identifier, split=split)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"dataset: {identifier!r}, split {split!r}: {_one_line(error)}") from None
    return identifier, rows.select_columns(_select(identifier, rows.column_names, select))


def _select(source: str | Path, columns: Iterable[str], select: Select) -> list[str]:
    try:
        return select(columns)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
