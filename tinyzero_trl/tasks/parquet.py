"""Problems to the parquet files that `tinyzero-trl data` writes: TinyZero's columns, and the difficulty."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyzero_trl.runs.files import made_folder
from tinyzero_trl.tasks import Problem, get_task

if TYPE_CHECKING:
    import pyarrow

_ROWS_PER_BATCH = 16_384


def write_splits(
    folder: Path,
    splits: Mapping[str, Sequence[Problem]],
    *,
    task: str,
    template: str,
    progress: Callable[[int], object] | None = None,
) -> list[Path]:
    """Write `folder/<split>.parquet` for every split; all of them appear at the end, or none.

    Columns: `target`, `nums`, `data_source` (the task), `prompt` ([{role, content}]), `ability`,
    `reward_model` ({style, ground_truth: {target, numbers}}), `extra_info` ({split, index}), `difficulty`.

    Raises:
        ValueError: if the task or the template is unknown.
        OSError: if the folder cannot be made or written.
    """
    paths = [folder / f"{split}.parquet" for split in splits]
    for path in paths:
        if path.is_dir():  # replacing it would fail after others had been replaced
            raise ValueError(f"{path} is a folder; remove it or name another one with --out")
    with made_folder(folder), ExitStack() as partial_files:
        partial_paths = [partial_files.enter_context(_partial(path)) for path in paths]
        for partial_path, (split, problems) in zip(partial_paths, splits.items(), strict=True):
            _write_parquet(partial_path, problems, split, task, template, progress)
        for partial_path, path in zip(partial_paths, paths, strict=True):
            os.replace(partial_path, path)
    return paths


def _write_parquet(
    path: Path,
    problems: Sequence[Problem],
    split: str,
    task: str,
    template: str,
    progress: Callable[[int], object] | None,
) -> None:
    import pyarrow.parquet

    schema = _schema()
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(problems), _ROWS_PER_BATCH):
            batch = problems[start : start + _ROWS_PER_BATCH]
            rows = [_row(problem, index, split, task, template) for index, problem in enumerate(batch, start)]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            if progress:
                progress(len(batch))


def _schema() -> "pyarrow.Schema":
    import pyarrow

    integer, text = pyarrow.int64(), pyarrow.string()
    integers = pyarrow.list_(integer)
    ground_truth = pyarrow.struct({"target": integer, "numbers": integers})
    return pyarrow.schema(
        {
            "target": integer,
            "nums": integers,
            "data_source": text,
            "prompt": pyarrow.list_(pyarrow.struct({"role": text, "content": text})),
            "ability": text,
            "reward_model": pyarrow.struct({"style": text, "ground_truth": ground_truth}),
            "extra_info": pyarrow.struct({"split": text, "index": integer}),
            "difficulty": integer,
        }
    )


def _row(problem: Problem, index: int, split: str, task: str, template: str) -> dict[str, Any]:
    room = get_task(task)
    prompt = room.render_prompt(problem, template)
    return {
        "target": problem.target,
        "nums": problem.numbers,
        "data_source": task,
        "prompt": [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt,
        "ability": "math",
        "reward_model": {
            "style": "rule",
            "ground_truth": {"target": problem.target, "numbers": problem.numbers},
        },
        "extra_info": {"split": split, "index": index},
        "difficulty": room.difficulty(problem),
    }


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A path beside the final one; what still lies there at the end is removed."""
    partial_path = path.with_name(f".{path.name}.partial")
    try:
        yield partial_path
    finally:
        partial_path.unlink(missing_ok=True)
