"""Examples to the parquet files that `tinyzero-trl data` writes."""

import filecmp
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tinyzero_trl.runs.earlier import move_aside
from tinyzero_trl.runs.files import no_empty_folder_on_failure, replacing
from tinyzero_trl.tasks.datasets import told_of_values
from tinyzero_trl.tasks.registry import get_task
from tinyzero_trl.tasks.task import Example, Task

logger = logging.getLogger(__name__)

_ROWS_PER_BATCH = 16_384


def write_splits(
    folder: Path,
    splits: Mapping[str, Sequence[Example]],
    *,
    task: str | Task,
    template: str,
    progress: Callable[[int], object] | None = None,
) -> list[Path]:
    """Write `folder/<split>.parquet` for every split; all of them appear at the end, or none.

    Other files of these names are moved to `_earlier/1`, `_earlier/2`, ... in the folder.

    The task chooses the columns. Those of countdown, multiplication and counting are TinyZero's: `target`, `nums`,
    `data_source` (the task), `prompt` ([{role, content}]), `ability`, `reward_model` ({style, ground_truth:
    {target, numbers}}), `extra_info` ({split, index}), and `difficulty`. Any other task's are its own.

    Raises:
        ValueError: if the task or the template is unknown.
        OSError: if the folder cannot be made or written.
    """
    paths = [folder / f"{split}.parquet" for split in splits]
    for path in paths:
        if path.is_dir():  # replacing it would fail after others had been replaced
            raise ValueError(f"{path} is a folder; remove it or name another one with --out")
    task = get_task(task)
    with no_empty_folder_on_failure(folder), ExitStack() as at_the_end:
        folder.mkdir(parents=True, exist_ok=True)
        drafts = [at_the_end.enter_context(replacing(path)) for path in paths]
        for draft, (split, examples) in zip(drafts, splits.items(), strict=True):
            _write_parquet(draft, examples, split, task, template, progress)
        _set_others_aside(folder, drafts, paths)
    return paths


def _set_others_aside(folder: Path, new: Sequence[Path], paths: Sequence[Path]) -> None:
    """Move the files that would be replaced by others out of the way."""
    pairs = zip(new, paths, strict=True)
    if not any(path.exists() and not filecmp.cmp(draft, path, shallow=False) for draft, path in pairs):
        return
    aside = move_aside(folder, [path.name for path in paths])
    logger.warning("out: other examples were in %s; they lie in %s now", folder, aside)


def _write_parquet(
    path: Path,
    examples: Sequence[Example],
    split: str,
    task: Task,
    template: str,
    progress: Callable[[int], object] | None,
) -> None:
    import pyarrow.parquet

    def rows_from(start: int) -> list[dict[str, Any]]:
        batch = enumerate(examples[start : start + _ROWS_PER_BATCH], start)
        return [task.parquet_row(example, template=template, split=split, index=index) for index, example in batch]

    first = rows_from(0)
    with told_of_values(task, first):
        schema = task.parquet_schema() or pyarrow.Table.from_pylist(first).schema
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(examples), _ROWS_PER_BATCH):
            rows = rows_from(start)
            with told_of_values(task, rows):
                table = pyarrow.Table.from_pylist(rows, schema)
            writer.write_table(table)
            if progress:
                progress(len(rows))
