"""The score of a completion at the end of the stage in which it finished, and no second time."""

import asyncio
import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from trl.trainer.utils import is_async_callable

from tinyzero_trl.messages import shortened
from tinyzero_trl.replacing import replaced
from tinyzero_trl.training import trl_internals

_NOT_COLUMNS = ("trainer_state", "log_extra", "log_metric", "environments")


class StageScores:
    """Stands in for a trainer's first reward function during one rollout, and asks it about each completion once.

    `score_finished` scores completions that have finished. The trainer's own call then asks about the others alone, and
    gets the rewards of all, with what was logged for each. A figure that the function logs at every call (`log_metric`)
    becomes one mean over all completions. A call about other completions than those that have a score is refused.

    Args:
        trainer: a `GRPOTrainer`, whose first reward function may be asynchronous.
        inputs: the examples of this rank's rows.
    """

    def __init__(self, trainer: Any, inputs: Sequence[Mapping[str, Any]]) -> None:
        reward_func: Any = trainer.reward_funcs[0]
        self._trainer, self._func, self._inputs = trainer, reward_func, inputs
        self._rewards: dict[int, float | None] = {}
        self._scored: dict[int, dict[str, Any]] = {}  # what was asked about each row, by column
        self._extras: dict[str, dict[int, Any]] = {}
        self._figures: dict[str, list[tuple[float, int]]] = {}  # values, and how many completions each is of

    def in_place(self) -> AbstractContextManager[None]:
        """Within it, the trainer asks this object in place of its first reward function."""
        answer = self._answer_later if is_async_callable(self._func) else self._answer
        own = self._trainer.reward_funcs  # the user's list, which TRL has kept
        return replaced(self._trainer, "reward_funcs", [answer, *own[1:]])

    def score_finished(self, rows: Sequence[int], completions: Sequence[Any], ids: Sequence[list[int]]) -> None:
        """Score completions that have finished: `rows` are their places, `completions` texts or conversations."""
        if not rows:
            return
        examples = [self._inputs[row] for row in rows]
        columns: dict[str, Any] = {
            name: [example[name] for example in examples]
            for name in self._inputs[0]
            if name not in ("prompt", "completion")
        }
        columns |= {"prompts": [example["prompt"] for example in examples], "completions": list(completions)}
        columns |= {"completion_ids": list(ids), "trainer_state": self._trainer.state}
        self._note(rows, columns)
        self._remember(rows, self._asked(columns | self._logs_for(rows)))

    def reward(self, row: int) -> float | None:
        """Of a completion that has been scored."""
        return self._rewards[row]

    def _asked(self, columns: Mapping[str, Any]) -> Iterable[float | None]:
        if not is_async_callable(self._func):
            return self._func(**columns)
        loop = trl_internals.loop_of_reward_functions(self._trainer)
        return asyncio.run_coroutine_threadsafe(self._func(**columns), loop).result()

    def _answer(self, **columns: Any) -> list[float | None]:
        rest, arguments = self._unscored(columns)
        self._remember(rest, self._func(**arguments) if rest else [])
        return self._all(columns)

    async def _answer_later(self, **columns: Any) -> list[float | None]:
        rest, arguments = self._unscored(columns)
        self._remember(rest, await self._func(**arguments) if rest else [])
        return self._all(columns)

    def _unscored(self, columns: Mapping[str, Any]) -> tuple[list[int], dict[str, Any]]:
        """The rows of the trainer's call that have no score yet, and the arguments for these alone."""
        self._check_scored(columns)
        rest = [row for row in range(len(columns["completions"])) if row not in self._rewards]
        arguments = {
            name: value if name in _NOT_COLUMNS else [value[row] for row in rest] for name, value in columns.items()
        }
        self._note(rest, arguments)
        return rest, arguments | self._logs_for(rest)

    def _check_scored(self, columns: Mapping[str, Any]) -> None:
        """Refuse a call about others than have been scored: they would get rewards that are not theirs."""
        rows = len(columns["completions"])
        for row, scored in self._scored.items():
            if row >= rows or scored != _row_of(columns, row):
                raise ValueError(
                    f"window_strategy: {type(self._trainer).__name__} samples a rollout several times, or changes "
                    "examples or completions before they are scored, and in stages some have a score by then; choose "
                    "a strategy without stages, such as signal"
                )

    def _note(self, rows: Sequence[int], columns: Mapping[str, Any]) -> None:
        """Note what is asked about `rows`, as it is now: a reward function may change the turns that it is given."""
        for place, row in enumerate(rows):
            asked = _row_of(columns, place)
            self._scored[row] = asked | {"completions": copy.deepcopy(asked["completions"])}

    def _all(self, columns: Mapping[str, Any]) -> list[float | None]:
        """The rewards of all rows; what was logged goes to the trainer."""
        rows = range(len(columns["completions"]))
        for name, values in self._extras.items():
            columns["log_extra"](name, [values.get(row) for row in rows])
        for name, weighted in self._figures.items():
            of_all = sum(value * count for value, count in weighted) / sum(count for _, count in weighted)
            columns["log_metric"](name, of_all)
        return [self._rewards[row] for row in rows]

    def _remember(self, rows: Sequence[int], rewards: Iterable[float | None]) -> None:
        name = self._trainer.reward_func_names[0]
        if not isinstance(rewards, Iterable) or isinstance(rewards, str):
            raise ValueError(
                f"reward_funcs: {name!r} returned {shortened(rewards)}; let it return a list with one value for each "
                "completion"
            )
        given = _by_row(rows, rewards, f"reward_funcs: {name!r} returned")
        if wrong := [reward for reward in given.values() if not _is_reward(reward)]:
            raise ValueError(
                f"reward_funcs: {name!r} returned {shortened(wrong[0])} for a completion; give a number, or None for "
                "no score"
            )
        self._rewards |= given

    def _logs_for(self, rows: Sequence[int]) -> dict[str, Any]:
        """`log_extra` and `log_metric` for a call about `rows`."""

        def log_extra(name: str, values: Iterable[Any]) -> None:
            self._extras.setdefault(name, {}).update(_by_row(rows, values, f"log_extra: {name!r} has"))

        def log_metric(name: str, value: float) -> None:
            self._figures.setdefault(name, []).append((value, len(rows)))

        return {"log_extra": log_extra, "log_metric": log_metric}


def _is_reward(value: Any) -> bool:
    """Whether TRL takes it: a number of any library, or None."""
    return value is None or (hasattr(value, "__float__") and not isinstance(value, str))


def _row_of(columns: Mapping[str, Any], place: int) -> dict[str, Any]:
    """What a call asks about the row at `place`."""
    return {name: values[place] for name, values in columns.items() if name not in _NOT_COLUMNS}


def _by_row(rows: Sequence[int], values: Iterable[Any], source: str) -> dict[int, Any]:
    """The values that a call about `rows` has given."""
    values = list(values)
    if len(values) != len(rows):
        raise ValueError(
            f"{source} {len(values)} values for {len(rows)} completions; give one for each. A rollout in stages asks "
            "about some of its completions at a time"
        )
    return dict(zip(rows, values, strict=True))
