"""Examples, generated or read, to the columns that TRL wants.

A prompt is never taken from a file: the task always renders it, so data made for one template trains with any.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tinyzero_trl.messages import shortened, text_of
from tinyzero_trl.runs.json_lines import is_finite_number
from tinyzero_trl.tasks.prompts import Message, check_key, check_prompt
from tinyzero_trl.tasks.registry import get_task
from tinyzero_trl.tasks.sources import read_rows
from tinyzero_trl.tasks.task import Example, Score, Task

if TYPE_CHECKING:
    import datasets

_TAKEN = {
    *("prompt", "prompts", "completion", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"),
    *("environment", "environments", "image", "images"),  # TRL's own
    *("difficulty", "reward", "reason", "length", "truncated", "problem_index", "sample_index", "prompt_length"),
}


def train_test_examples(
    task: str | Task,
    *,
    train_size: int,
    test_size: int,
    seed: int,
    progress: Callable[[int], object] | None = None,
    **options: Any,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Generate two disjoint lists of different examples, the same for the same arguments.

    The test examples are drawn first and do not depend on `train_size`. `options` are those of the task: `operands`,
    `min_number`, ... for countdown, `digits` for multiplication. They win over those that a task was made with.

    Raises:
        ValueError: if the task is unknown, a size, the seed or an option is out of bounds, or too few examples exist.
    """
    task = get_task(task, options)
    for field, size in (("train_size", train_size), ("test_size", test_size)):
        if size < 1:
            raise ValueError(f"{field}: {size} must be at least 1; ask for more problems")
    if seed < 0:
        raise ValueError(f"seed: {seed} is negative; use 0 or more")
    with _asked_for_as("test_size"):
        test = task.generate(test_size, seed=2 * seed, progress=progress, **task.given)
    with _asked_for_as("train_size"):
        exclude = {task.key(example) for example in test}
        train = task.generate(train_size, seed=2 * seed + 1, exclude=exclude, progress=progress, **task.given)
    return train, test


@contextmanager
def _asked_for_as(field: str) -> Iterator[None]:
    """A complaint of the generator about its `count`, under the name that the count was given by."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace("count:", f"{field}:", 1)) from None


def read_examples(
    source: str, *, task: str | Task, split: str = "train", limit: int | None = None
) -> list[dict[str, Any]]:
    """Read the examples of one split.

    Args:
        source: a parquet, JSON, JSON-lines or CSV file (then `split` is not looked at); a folder with
            `train.parquet`, `test.jsonl`, ... or shards `train-*.parquet`, or with those in its folder `data`; a folder
            that `save_to_disk` of Hugging Face Datasets has written; or the id of a Hub data set.
        task: the task or its name, which checks every row.
        split: the split's name.
        limit: read at most this many rows, the first ones.

    Raises:
        ValueError: if the source is none of these, has no such split or column, or no row, or a row is not an
            example of the task: then the message names file, row (counted from 1) and field.
        OSError: if a file cannot be read.
    """
    reader = get_task(task)
    if limit is not None and limit < 1:
        raise ValueError(f"limit: {limit} must be at least 1; leave it out to read every row")
    examples: list[dict[str, Any]] = []
    texts = {name for name, kind in reader.columns.items() if kind is str}
    for name, rows in read_rows(source, split, reader.source_columns, texts):
        for number, row in enumerate(rows, start=1):
            try:
                examples.append(reader.read(row))
            except ValueError as error:
                raise ValueError(f"{name}: row {number}: {error}") from None
            if len(examples) == 1:
                check_key(reader.name, reader.key(examples[0]))
            if len(examples) == limit:
                return examples
    if not examples:
        raise ValueError(f"{source}: holds no examples; give one with rows")
    return examples


def to_dataset(examples: Sequence[Example], *, task: str | Task, template: str) -> "datasets.Dataset":
    """Columns `prompt` (text, or messages for `chat`), those of the task, and `difficulty`; one row per example.

    Raises:
        ValueError: the task or the template is unknown, it gives no scores, or a column holds values of several types.
    """
    import datasets

    task = get_task(task)
    for example in examples[:1]:
        check_score(task, example)
    own = to_columns(task, examples)
    columns = {
        "prompt": prompts_of(task, examples, template),
        **own,
        "difficulty": [task.difficulty(example) for example in examples],
    }
    with told_of_values(task, examples):
        return datasets.Dataset.from_dict(columns)


def prompts_of(task: Task, examples: Sequence[Example], template: str) -> list[str | list[Message]]:
    """The prompt of each example.

    Raises:
        ValueError: the template is unknown, or the task gives something else for the first example.
    """
    prompts = [task.prompt(example, template) for example in examples]
    for prompt in prompts[:1]:
        check_prompt(task.name, prompt)
    return prompts


def digest_of_rows(rows: "datasets.Dataset") -> str:
    """A digest of all rows, in their order.

    Columns with images, audio or video do not count: to decode them takes hours, and a decoded one has no text of its
    own. Nor does a transform: it may ask for those columns.
    """
    import xxhash
    from datasets.features.features import require_decoding

    digest = xxhash.xxh3_128()
    rows = rows.with_format(None) if rows.format["type"] == "custom" else rows
    plain = rows.select_columns([name for name, kind in rows.features.items() if not require_decoding(kind)])
    for batch in plain.iter(1000):  # a data set may be larger than the memory
        digest.update(repr(batch).encode(errors="surrogatepass"))
    return digest.hexdigest()


@contextmanager
def told_of_values(task: Task, rows: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Values that no column can hold, in words that their author knows.

    Raises:
        ValueError: where Arrow refuses values of several types, or a whole number beyond 64 bits.
    """
    import pyarrow

    try:
        yield
    except OverflowError:
        found = ((name, value) for row in rows for name, value in row.items() if _is_beyond_64_bits(value))
        name, value = next(found, ("a column", ""))
        raise ValueError(
            f"dataset: {name} of the task {task.name} holds {shortened(value)}, beyond the whole numbers of 64 bits; "
            "give smaller numbers, or declare the column as str"
        ) from None
    except (pyarrow.ArrowException, TypeError) as error:
        reason = text_of(error)
        raise ValueError(
            f"dataset: a column of the task {task.name} holds values of several types ({reason}); give one"
        ) from error


def _is_beyond_64_bits(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_is_beyond_64_bits, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def check_score(task: Task, example: Example) -> None:
    """Raise ValueError unless a task scores an empty completion, and labels an example, as `Task` says.

    So its author learns it before a model loads.
    """
    label = task.difficulty(example)
    if not isinstance(label, str) and (type(label) is not int or label < 0):
        raise ValueError(
            f"task: {task.name} gives the difficulty {shortened(label)}; return a positive whole number or a text, or "
            "0 for none"
        )
    try:
        score = task.score("", example)
    except Exception as error:  # whatever the user's code does with a text that is no answer
        raise ValueError(
            f"task: {task.name} scores an empty completion with {type(error).__name__}: {text_of(error)}; return a "
            "Score for every text"
        ) from error
    if not isinstance(score, Score) or not is_finite_number(score.reward) or not isinstance(score.reason, str):
        raise ValueError(
            f"task: {task.name} scores an empty completion with {shortened(score)}; return Score(reward, reason), a "
            "finite number and a text"
        )


def scored(task: Task, completion: str, example: Example) -> Score:
    """The score of a completion.

    Raises:
        ValueError: the task gives something else, as a `score` that ends without `return` does.
    """
    score = task.score(completion, example)
    if not isinstance(score, Score):
        raise ValueError(
            f"task: {task.name} scores the completion {shortened(completion)} with {shortened(score)}; return "
            "Score(reward, reason) for every text"
        )
    return score


def to_columns(task: Task, examples: Sequence[Example]) -> dict[str, list[Any]]:
    """The examples as columns that share no name with others: one that is taken becomes `example_NAME`.

    Mappings become JSON: Arrow would give each of them the keys of all.
    """
    for example in examples:
        if example.keys() != task.columns.keys():
            raise ValueError(
                f"task: an example of {task.name} has the columns {sorted(example)}, but the task declares "
                f"{sorted(task.columns)}; return exactly these"
            )
    _check_names(task)
    for name in (name for name, kind in task.columns.items() if kind is list):
        mappings = (value for example in examples for value in example[name] if isinstance(value, dict))
        if len({frozenset(each) for each in mappings}) > 1:
            raise ValueError(
                f"dataset: {name} of the task {task.name} is a list of mappings with different keys, and in a column "
                "each would have the keys of all; give all the same keys, or declare a dict that holds the list"
            )
    return {
        column_name(name): [json.dumps(example[name]) if kind is dict else example[name] for example in examples]
        for name, kind in task.columns.items()
    }


def _check_names(task: Task) -> None:
    taken: dict[str, str] = {}
    for name in task.columns:
        if (stored := column_name(name)) in taken:
            raise ValueError(
                f"task: the columns {taken[stored]} and {name} of {task.name} would both be stored as {stored}, for "
                "one of the names is taken; rename one of them"
            )
        taken[stored] = name


def from_columns(task: Task, columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """The examples that `to_columns` was given."""
    kinds = task.columns.items()
    for values in zip(*(columns[column_name(name)] for name in task.columns), strict=True):
        yield {
            name: json.loads(value) if kind is dict else value
            for (name, kind), value in zip(kinds, values, strict=True)
        }


def column_name(name: str) -> str:
    """The name of a task's column in data sets and result files, where TRL and our own figures take some names."""
    return f"example_{name}" if name in _TAKEN else name
