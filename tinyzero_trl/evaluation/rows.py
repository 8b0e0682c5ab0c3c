"""The rows of an evaluation, one per generation: work file, parquet file, and the figures made of them."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tinyzero_trl.metrics import accuracy, by_problem, labels_of, pass_at_k
from tinyzero_trl.runs.files import replacing
from tinyzero_trl.windows.outcomes import FULL_REWARD, is_success

Row = dict[str, Any]
"""One generation; its keys are those of `SCHEMA` and the columns of the task."""

SCHEMA = pa.schema(
    {
        "prompt": pa.string(),  # as the model read it: a chat is already rendered
        "completion": pa.string(),
        "reward": pa.float64(),  # empty where it was not judged
        "reason": pa.string(),
        "length": pa.int64(),  # tokens, the end token included
        "truncated": pa.bool_(),
        "difficulty": pa.int64(),  # or text, by the task
        "problem_index": pa.int64(),
        "sample_index": pa.int64(),
        "prompt_length": pa.int64(),  # tokens
    }
)
_TEXTS = 2  # prompt and completion, before the columns of the task


class WorkFile:
    """The finished part of an evaluation, so that an interrupted one goes on where it stopped.

    JSON lines: first what identifies the evaluation, then the rows of one engine call per line. A line is
    either complete or, after a kill, not there.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Open the file, or start it.

        Args:
            path: the file.
            identity: of the evaluation, in the types of JSON.

        Raises:
            ValueError: if it belongs to another evaluation, or is damaged.
        """
        self.path = path
        self.rows: list[Row] = []
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        try:
            found, *calls = map(json.loads, whole.splitlines() or [b"{}"])
            if not isinstance(found, dict) or not all(isinstance(call, list) for call in calls):
                raise ValueError("it holds other lines than a work file")
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); delete it to start over") from error
        if not calls:  # it is new, or failed before its first answer and may give way to any other
            path.write_text(json.dumps(identity) + "\n", encoding="utf-8")
            return
        _check_identity(path, found, identity)
        self.rows = [row for call in calls for row in call]
        with path.open("r+b") as stream:
            stream.truncate(len(whole))

    def append(self, rows: Sequence[Row]) -> None:
        """Add the rows of one engine call."""
        self.rows.extend(rows)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(rows) + "\n")

    def remove(self) -> None:
        """The evaluation is finished."""
        self.path.unlink()


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write the parquet file, ordered by problem and sample; it appears whole or not at all.

    The columns of the task stand after prompt and completion, in the types that Arrow finds for them. Where one
    difficulty is text, all are.
    """
    ordered = sorted(rows, key=lambda row: (row["problem_index"], row["sample_index"]))
    texts_tell = any(isinstance(row["difficulty"], str) for row in ordered)
    if texts_tell:
        ordered = [{**row, "difficulty": str(row["difficulty"] or "")} for row in ordered]
    own = pa.Table.from_pylist([{name: row[name] for name in row if name not in SCHEMA.names} for row in ordered])
    texts, others = list(SCHEMA)[:_TEXTS], list(SCHEMA)[_TEXTS:]
    if texts_tell:
        others = [field.with_type(pa.string()) if field.name == "difficulty" else field for field in others]
    schema = pa.schema([*texts, *own.schema, *others])
    with replacing(path) as draft:
        pq.write_table(pa.Table.from_pylist(ordered, schema=schema), draft)


def summarise(rows: Sequence[Row], success_threshold: float = FULL_REWARD) -> dict[str, Any]:
    """The figures of an evaluation. An answer is correct when its reward is at least `success_threshold`.

    An answer without a reward was not judged: it is in no figure that asks for its reward, and `unjudged` counts such
    answers where there are any.

    `acc`, `acc_low`, `acc_high`, `problems` and `reward` over the judged rows, absent where there are none;
    `difficulty` the accuracy per label;
    `truncated_frac`, `mean_length` and, where there is a correct row, `correct_mean_length`; `tokens`;
    `reasons` of the scores, most frequent first; with several samples per problem `pass_at_k` for k = 1, 2,
    4, ... and n.
    """
    judged = [row for row in rows if row["reward"] is not None]
    lengths = [row["length"] for row in rows]
    correct_lengths = [row["length"] for row in rows if is_correct(row, success_threshold)]
    prompt_total, response_total = sum(row["prompt_length"] for row in rows), sum(lengths)
    figures: dict[str, Any] = {
        **_accuracy(judged, success_threshold),
        **({"reward": fmean(row["reward"] for row in judged)} if judged else {}),
        "generations": len(rows),
        **({"unjudged": len(rows) - len(judged)} if len(judged) < len(rows) else {}),
        "truncated_frac": fmean(row["truncated"] for row in rows),
        "mean_length": fmean(lengths),
        "tokens": {
            "prompt_total": prompt_total,
            "response_total": response_total,
            "overall_total": prompt_total + response_total,
        },
        "difficulty": {
            str(level): _accuracy([row for row in judged if row["difficulty"] == level], success_threshold)
            for level in labels_of([row["difficulty"] for row in judged])
        },
        "reasons": dict(Counter(row["reason"] for row in rows).most_common()),
    }
    if correct_lengths:
        figures["correct_mean_length"] = fmean(correct_lengths)
    samples = max(Counter(row["problem_index"] for row in judged).values(), default=0)
    if samples > 1:
        figures["pass_at_k"] = _pass_at_k(judged, samples, success_threshold)
    return figures


def is_correct(row: Row, success_threshold: float) -> bool:
    """Whether an answer is a success; one that was not judged is none."""
    return is_success(row["reward"], success_threshold)


def _accuracy(judged: Sequence[Row], success_threshold: float) -> dict[str, Any]:
    correct = [is_correct(row, success_threshold) for row in judged]
    figures = accuracy(correct, [row["problem_index"] for row in judged])
    if figures is None:
        return {}
    return {"acc": figures.mean, "acc_low": figures.low, "acc_high": figures.high, "problems": figures.problems}


def _pass_at_k(judged: Sequence[Row], samples: int, success_threshold: float) -> dict[str, float]:
    """Mean of the unbiased estimate for k = 1, 2, 4, ... and `samples`, over the problems with so many judged answers.

    Every k is over the same problems, so that more answers never have a smaller share.
    """
    powers = [2**exponent for exponent in range(samples.bit_length())]
    correct = by_problem(
        [is_correct(row, success_threshold) for row in judged], [row["problem_index"] for row in judged]
    ).values()
    complete = [answers for answers in correct if len(answers) == samples]
    return {
        str(k): fmean(pass_at_k(samples, sum(answers), k) for answers in complete)
        for k in dict.fromkeys((*powers, samples))
    }


def _check_identity(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = sorted((key for key in wanted if found.get(key) != wanted[key]), key=lambda key: key not in found)
    if different:
        listed = ", ".join(f"{key}: {found.get(key)!r} there, {wanted[key]!r} here" for key in different[:3])
        raise ValueError(
            f"{path} is the unfinished part of another evaluation ({listed}); finish that one with its own "
            "settings, delete the file, or give another --out"
        )
