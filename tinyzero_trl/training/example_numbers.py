"""A number for each held-out example, by which one that is answered twice is known."""

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from datasets import Dataset


class ExampleNumbers:
    """Gives the examples of data sets a number each, in a column whose name is not the user's."""

    def __init__(self) -> None:
        self._numbered: WeakKeyDictionary[Dataset, Dataset] = WeakKeyDictionary()  # by the one that was given
        self._columns: set[str] = set()

    def given_to(self, dataset: Any) -> Any:
        """The data set with the column of numbers, made once for each; streams stay as they are."""
        if not isinstance(dataset, Dataset):
            return dataset
        if dataset in self._numbered:
            return self._numbered[dataset]
        name = "_held_out_number"
        while name in dataset.column_names:
            name += "_"
        result = dataset.add_column(name, list(range(len(dataset))))
        self._columns.add(name)
        self._numbered[dataset] = result
        return result

    def of(self, example: Mapping[str, Any]) -> int | None:
        """The number of an example; None where it has none, as in a stream or with `remove_unused_columns`."""
        column = self._column(example)
        return example[column] if column else None

    def taken_from(self, examples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The examples as the user gave them."""
        return [{name: value for name, value in each.items() if name != self._column(each)} for each in examples]

    def _column(self, example: Mapping[str, Any]) -> str | None:
        """Where the example has its number. A name of ours that the user has too is the shorter of the two."""
        return max((name for name in self._columns if name in example), key=len, default=None)
