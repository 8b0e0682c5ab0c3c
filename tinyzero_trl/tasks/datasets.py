"""Problems from the generator, a file, a folder or the Hub, to the columns TRL wants.

A prompt is never taken from a file: it is always rendered from the numbers and the target, so a data set of
TinyZero's trains with any template.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyzero_trl.tasks import Problem, get_task

if TYPE_CHECKING:
    import datasets

_FORMATS = (".parquet", ".jsonl", ".json")
_NUMBERS_COLUMNS = ("nums", "numbers")

Columns = tuple[str, list[Any], list[Any]]
"""The name of a file, its lists of numbers and its targets, as found: unchecked."""


def train_test_problems(
    task: str,
    *,
    train_size: int,
    test_size: int,
    seed: int,
    progress: Callable[[int], object] | None = None,
    **generator_options: Any,
) -> tuple[list[Problem], list[Problem]]:
    """Generate two disjoint lists of different problems, the same for the same arguments.

    The test problems are drawn first and do not depend on `train_size`. `generator_options` go to the task's
    `generate`: `operands`, `min_number`, ... for countdown, `digits` for multiplication.

    Raises:
        ValueError: if the task is unknown, a size, the seed or an option is out of bounds, or too few problems exist.
    """
    generate = get_task(task).generate
    for field, size in (("train_size", train_size), ("test_size", test_size)):
        if size < 1:
            raise ValueError(f"{field}: {size} must be at least 1; ask for more problems")
    if seed < 0:
        raise ValueError(f"seed: {seed} is negative; use 0 or more")
    with _asked_for_as("test_size"):
        test = generate(test_size, seed=2 * seed, progress=progress, **generator_options)
    with _asked_for_as("train_size"):
        train = generate(
            train_size,
            seed=2 * seed + 1,
            exclude={problem.key for problem in test},
            progress=progress,
            **generator_options,
        )
    return train, test


@contextmanager
def _asked_for_as(field: str) -> Iterator[None]:
    """A complaint of the generator about its `count`, under the name that the count was given by."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace("count:", f"{field}:", 1)) from None


def load_split(
    source: str, *, task: str, template: str, split: str = "train", limit: int | None = None
) -> "datasets.Dataset":
    """The problems of a file, folder or Hub data set as TRL wants them: `read_problems`, `to_dataset`."""
    return to_dataset(read_problems(source, task=task, split=split, limit=limit), task=task, template=template)


def to_dataset(problems: Sequence[Problem], *, task: str, template: str) -> "datasets.Dataset":
    """Columns `prompt` (text, or messages for `chat`), `numbers`, `target` and `difficulty`, a row a problem.

    Raises:
        ValueError: if the task or the template is unknown.
    """
    import datasets

    room = get_task(task)
    return datasets.Dataset.from_dict(
        {
            "prompt": [room.render_prompt(problem, template) for problem in problems],
            "numbers": [list(problem.numbers) for problem in problems],
            "target": [problem.target for problem in problems],
            "difficulty": [room.difficulty(problem) for problem in problems],
        }
    )


def read_problems(source: str, *, task: str, split: str = "train", limit: int | None = None) -> list[Problem]:
    """Read the problems of one split.

    Args:
        source: a parquet, JSON or JSON-lines file (then `split` is not looked at); a folder with
            `train.parquet`, `test.jsonl`, ... or shards `train-*.parquet`; or the id of a Hub data set.
        task: `countdown` or `multiplication`.
        split: the split's name.
        limit: read at most this many rows, the first ones.

    Raises:
        ValueError: if the source is none of these, has no such split or column, or no row, or a row is not a
            problem of the task: then the message names file, row (counted from 0) and field.
        OSError: if a file cannot be read.
    """
    to_problem = get_task(task).to_problem
    if limit is not None and limit < 1:
        raise ValueError(f"limit: {limit} must be at least 1; leave it out to read every row")
    problems: list[Problem] = []
    for name, numbers, targets in _columns(source, split):
        remaining = None if limit is None else limit - len(problems)
        rows = islice(zip(numbers, targets, strict=True), remaining)
        for row, (row_numbers, row_target) in enumerate(rows):
            try:
                problems.append(to_problem(row_numbers, row_target))
            except ValueError as error:
                raise ValueError(f"{name}: row {row}: {error}") from None
    if not problems:
        raise ValueError(f"{source}: holds no problems; needs rows with target and nums")
    return problems


def _columns(source: str, split: str) -> Iterator[Columns]:
    path = Path(source)
    if not source:
        raise ValueError("dataset: '' names nothing; give a file, a folder or the id (owner/name) of a Hub data set")
    if path.is_file():
        yield _read_file(path)
    elif path.is_dir():
        yield from map(_read_file, _files_of_split(path, split))
    elif path.suffix in _FORMATS or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ValueError(
            f"dataset: {source!r} is no file or folder here, nor the id (owner/name) of a Hub data set; check the path"
        )
    else:
        yield _read_hub(source, split)


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


def _read_file(path: Path) -> Columns:
    if path.suffix == ".parquet":
        return _read_parquet(path)
    if path.suffix == ".jsonl":
        return _read_rows(path, [_parse_json(path, line) for line in path.read_bytes().splitlines() if line.strip()])
    if path.suffix == ".json":
        return _read_rows(path, _parse_json(path, path.read_bytes()))
    raise ValueError(f"{path}: is none of {', '.join(_FORMATS)}; convert it to one of them")


def _parse_json(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no valid JSON: {_one_line(error)}; mend or replace it") from None


def _read_rows(path: Path, rows: Any) -> Columns:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: must hold objects with target and nums: a list of them, or one a line (.jsonl)")
    numbers = _numbers_column(path, set().union(*rows))
    return str(path), [row.get(numbers) for row in rows], [row.get("target") for row in rows]


def _read_parquet(path: Path) -> Columns:
    import pyarrow
    import pyarrow.parquet

    try:
        numbers = _numbers_column(path, pyarrow.parquet.read_schema(path).names)
        table = pyarrow.parquet.read_table(path, columns=[numbers, "target"], partitioning=None)
    except (pyarrow.ArrowException, OSError) as error:  # damage inside a page is an OSError
        raise ValueError(f"{path}: is no readable parquet file: {_one_line(error)}; write it anew") from None
    return str(path), table[numbers].to_pylist(), table["target"].to_pylist()


def _read_hub(identifier: str, split: str) -> Columns:
    import datasets

    try:
        rows = datasets.load_dataset(identifier, split=split)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"dataset: {identifier!r}, split {split!r}: {_one_line(error)}") from None
    numbers = _numbers_column(identifier, rows.column_names)
    return identifier, rows[numbers][:], rows["target"][:]


def _numbers_column(source: str | Path, columns: Iterable[str]) -> str:
    present = set(columns)
    numbers = next((name for name in _NUMBERS_COLUMNS if name in present), None)
    if numbers is None or "target" not in present:
        raise ValueError(f"{source}: needs the columns target and nums (or numbers); has {sorted(present)}")
    return numbers


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
