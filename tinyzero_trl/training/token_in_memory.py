"""The token of the Hub stays in memory: what is pickled of a configuration does not hold it."""

import copy
from typing import Any, Self

from tinyzero_trl.runs.redaction import without_secrets


class TokenInMemory:
    """A configuration with a `hub_token`, which copies keep and files do not have, nor any other secret.

    Trainer pickles its configuration into `training_args.bin`, which is pushed with a model, and gives it to trackers.
    """

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled."""
        kept = {
            name: without_secrets(value) if isinstance(value, str | dict | list) else value
            for name, value in self.__dict__.items()
        }
        return {**kept, "hub_token": None}

    def to_dict(self) -> dict[str, Any]:
        """What trackers are given, and what becomes the configuration of a run."""
        values: dict[str, Any] = super().to_dict()  # type: ignore[misc]
        return {name: without_secrets(value) for name, value in values.items()}

    def __copy__(self) -> Self:
        """The same values in another configuration."""
        result = object.__new__(type(self))
        result.__dict__.update(self.__dict__)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copies of the values in another configuration."""
        result = memo[id(self)] = object.__new__(type(self))
        result.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return result
