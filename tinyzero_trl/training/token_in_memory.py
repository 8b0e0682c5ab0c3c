"""The token of the Hub stays in memory: what is pickled of a configuration does not hold it."""

import copy
from typing import Any, Self


class TokenInMemory:
    """A configuration with a `hub_token`, which copies keep and files do not have.

    Trainer pickles its configuration into `training_args.bin`, which is pushed with a model.
    """

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled."""
        return {**self.__dict__, "hub_token": None}

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
