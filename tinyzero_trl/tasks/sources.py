"""Rows of a file, a folder or the Hub, as they are found: unchecked."""

import glob
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyzero_trl.messages import text_of

_FORMATS = (".parquet", ".jsonl", ".json", ".csv")
_SAVED, _SAVED_WITH_SPLITS = "state.json", "dataset_dict.json"  # what `save_to_disk` of Hugging Face Datasets leaves
_SHARD = re.compile(r"-[0-9]{5}-of-([0-9]{5})\.parquet$")
_LARGEST_BLOCK = 2**31 - 1  # bytes of a CSV file that Arrow reads at once, at most

Rows = tuple[str, Iterable[Mapping[str, Any]]]
"""The name of a file, and its rows."""

Select = Callable[[Iterable[str]], list[str]]
"""Chooses the columns to read among those that are there, or raises ValueError."""


def read_rows(source: str, split: str, select: Select, texts: Collection[str] = ()) -> Iterator[Rows]:
    """The rows of one split, file by file, with the columns that `select` chooses.

    Args:
        source: a file, a folder or a Hub id.
        split: the split's name; a file has none.
        select: chooses the columns.
        texts: columns that hold text, whatever it looks like: a CSV file does not say that `007` is no number.

    Raises:
        ValueError: the source is no file, folder or Hub id, has no such split or column, or cannot be read.
        OSError: a file cannot be opened.
    """
    path = Path(source).expanduser()
    if not source:
        raise ValueError("dataset: '' names nothing; give a file, a folder or the id (owner/name) of a Hub data set")
    if path.is_file():
        yield _read_file(path, select, texts)
    elif path.is_dir():
        if (path / _SAVED).is_file() or (path / _SAVED_WITH_SPLITS).is_file():
            yield _read_saved(path, split, select)
        else:
            for file in _files_of_split(path, split):
                yield _read_file(file, select, texts)
    elif not is_on_hub(source):
        raise ValueError(
            f"dataset: {source!r} is no file or folder here, nor the id (owner/name) of a Hub data set; check the path"
        )
    else:
        yield _read_hub(source, split, select)


def is_on_hub(source: str) -> bool:
    """Whether a source that is no file or folder here may be the id of a data set on the Hub."""
    path = Path(source).expanduser()
    names_a_path = path.suffix in _FORMATS or source.count("/") != 1 or source.startswith((".", "/", "~"))
    return not path.exists() and not names_a_path


def has_splits(source: str) -> bool:
    """Whether a source tells training from held-out rows: not a file, nor a folder that one data set was saved to."""
    path = Path(source).expanduser()
    return not path.is_file() and not (path / _SAVED).is_file()


def _files_of_split(folder: Path, split: str) -> list[Path]:
    if Path(split).name != split:
        raise ValueError(f"split: {split!r} is no name of a split; give one such as train or test")
    begins = glob.escape(split)
    for place in (folder, folder / "data"):  # `hf download` leaves data/train-00000-of-00001.parquet
        for suffix in _FORMATS:
            if (file := place / f"{split}{suffix}").is_file():
                return [file]
        if shards := sorted(place.glob(f"{begins}-*.parquet")):
            _check_complete(shards)
            return shards
    names = ", ".join(f"{split}{suffix}" for suffix in _FORMATS)
    deeper = sorted({file.parent.relative_to(folder) for file in folder.glob(f"*/**/{begins}*.parquet")})
    remedy = f"give {folder / deeper[0]}" if deeper else "choose another folder or split"
    raise ValueError(f"{folder}: has no {names} or {split}-*.parquet, nor has its folder data; {remedy}")


def _check_complete(shards: Sequence[Path]) -> None:
    """Refuse a part of a data set, as an interrupted download leaves it: names say of how many shards each is one."""
    counts = {int(found[1]) for shard in shards if (found := _SHARD.search(shard.name))}
    if counts and max(counts) > len(shards):
        raise ValueError(
            f"{shards[0].parent}: has {len(shards)} of {max(counts)} files such as {shards[0].name}; fetch the others"
        )


def _read_file(path: Path, select: Select, texts: Collection[str]) -> Rows:
    if path.suffix == ".parquet":
        return str(path), _read_parquet(path, select)
    if path.suffix == ".jsonl":
        lines = enumerate(path.read_bytes().splitlines(), start=1)
        rows = [_parse_json(f"{path}, line {number}", line) for number, line in lines if line.strip()]
        return str(path), _checked(path, rows, select)
    if path.suffix == ".json":
        return str(path), _checked(path, _parse_json(str(path), path.read_bytes()), select)
    if path.suffix == ".csv":
        return str(path), _read_csv(path, select, texts)
    raise ValueError(f"{path}: is none of {', '.join(_FORMATS)}; convert it to one of them")


def _parse_json(where: str, text: bytes) -> Any:
    try:
        value = json.loads(text)
        if b"\\u" in text:  # the escape of half a character is JSON, but no text that a tokenizer or a file takes
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise ValueError(f"{where}: is no valid JSON: {error.msg} at {place}; fix or replace it") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: is no valid JSON: {text_of(error)}; fix or replace it") from None
    return value


def _checked(path: Path, rows: Any, select: Select) -> Iterable[Mapping[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: must hold objects with the task's columns: a list of them, or one a line (.jsonl)")
    if rows:
        _select(path, set().union(*rows), select)
    return rows


def _read_parquet(path: Path, select: Select) -> Iterable[Mapping[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
        names = _select(path, schema.names, select)
        rows = pyarrow.parquet.read_table(path, columns=names, partitioning=None).to_pylist()
        return _with_class_names(rows, _features(schema))
    except (pyarrow.ArrowException, OSError) as error:  # damage inside a page is an OSError
        raise ValueError(f"{path}: is no readable parquet file: {text_of(error)}; write it anew") from None


def _read_csv(path: Path, select: Select, texts: Collection[str]) -> Iterable[Mapping[str, Any]]:
    import pyarrow
    import pyarrow.csv

    as_text = dict.fromkeys(texts, pyarrow.string())
    at_once = min(path.stat().st_size + 1, _LARGEST_BLOCK)  # a row must lie within a block
    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(block_size=at_once),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(null_values=[""], column_types=as_text),  # a word may be NA
        )
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: is no readable CSV file: {text_of(error)}; write it anew") from None
    return table.select(_select(path, table.column_names, select)).to_pylist()


def _read_saved(folder: Path, split: str, select: Select) -> Rows:
    """A data set as `save_to_disk` leaves it."""
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: is no data set that can be read: {text_of(error)}; save it anew") from None
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise ValueError(f"{folder}: has the splits {sorted(saved)} and no {split}; choose another folder or split")
        saved = saved[split]
    chosen = _select(folder, (plain := saved.with_format(None)).column_names, select)
    return str(folder), _with_class_names(plain.select_columns(chosen), plain.features)


def _read_hub(identifier: str, split: str, select: Select) -> Rows:
    import datasets

    from tinyzero_trl.runs.hub_access import offline_if_silent

    name, _, configuration = identifier.partition(":")
    with offline_if_silent(name) as offline:
        try:
            rows = datasets.load_dataset(name, configuration or None, split=split)
        except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
            if offline:
                why = "the Hub does not answer, and the data set is not in the local cache; give a file or a folder"
            else:
                remedy = "" if configuration else f"; if it has several configurations, give {name}:CONFIGURATION"
                why = f"{text_of(error)}{remedy}"
            raise ValueError(f"dataset: {identifier!r}, split {split!r}: {why}") from None
    chosen = _select(identifier, rows.column_names, select)
    return identifier, _with_class_names(rows.select_columns(chosen), rows.features)


def _features(schema: Any) -> Mapping[str, Any]:
    """What Hugging Face Datasets has noted of the columns in the file that it wrote; nothing of other files."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    import datasets

    return datasets.Features.from_arrow_schema(schema)


def _with_class_names(rows: Iterable[Mapping[str, Any]], features: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The rows with the names of classes, where a column has their numbers (`ClassLabel`)."""
    classes = {name: feature for name, feature in features.items() if hasattr(feature, "int2str")}
    if not classes:
        return rows

    def named(name: str, value: Any) -> Any:
        return classes[name].int2str(value) if name in classes and isinstance(value, int) and value >= 0 else value

    return [{name: named(name, value) for name, value in row.items()} for row in rows]


def _select(source: str | Path, columns: Iterable[str], select: Select) -> list[str]:
    present = list(columns)
    try:
        chosen = select(present)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    if twice := [name for name in chosen if present.count(name) > 1]:
        raise ValueError(f"{source}: has the column {twice[0]} more than once; rename or remove one of them")
    return chosen
