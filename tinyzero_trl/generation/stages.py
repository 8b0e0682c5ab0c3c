"""Sampling in stages: between two of them somebody decides which sequences go on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any

from tinyzero_trl.generation.engine import Engine, SampledBatch, Sampling
from tinyzero_trl.messages import shortened

GoOn = Callable[[SampledBatch], Sequence[int] | None]
"""The rows of a batch that go on, ascending and all of them unfinished; None where no row of any process goes on."""


@dataclass(frozen=True, slots=True)
class Stages:
    """Where sampling pauses, and who decides there.

    Args:
        ends: completion lengths in tokens, ascending. Those from the limit of the rollout on are left out.
        go_on: called at each end, in every process alike: also where a process has no unfinished row left.
    """

    ends: Sequence[int]
    go_on: GoOn


AT_ONCE = Stages((), lambda batch: None)
"""One stage, up to the limit."""


def sample(engine: Engine, prompt_ids: Sequence[list[int]], sampling: Sampling, limit: int) -> SampledBatch:
    """One completion per prompt of `limit` tokens at most.

    Raises:
        ValueError: the engine does not return what it must.
    """
    return StagedBatch(prompt_ids, sampling, AT_ONCE).run(engine, limit)


class StagedBatch:
    """A batch of prompts that is sampled stage by stage, each by a call of `run`, and asked in between who goes on.

    Args:
        prompt_ids: token ids of the prompts, (B,).
        sampling: how to sample.
        stages: where to pause.

    Attributes:
        sampled: the completions so far; None before the first stage.
    """

    def __init__(self, prompt_ids: Sequence[list[int]], sampling: Sampling, stages: Stages) -> None:
        self._prompt_ids, self._sampling, self._stages = prompt_ids, sampling, stages
        self._rows: Sequence[int] | None = range(len(prompt_ids))  # of the next stage
        self._is_last = False  # whether the latest stage is
        self.sampled: SampledBatch | None = None

    def run(self, engine: Engine, limit: int) -> SampledBatch:
        """Sample the next stage. Each gets an engine of the same kind, and the limit of the last one.

        Raises:
            ValueError: the engine does not return what it must.
        """
        assert self._rows is not None, "asked between two stages"
        before = self.sampled.limit if self.sampled else 0
        end = min((end for end in self._stages.ends if before < end < limit), default=limit)
        if self.sampled is None:
            returned = engine.start(self._prompt_ids, self._sampling, end)
        else:
            returned = engine.extend(self.sampled, self._rows, end)
        self.sampled = _checked(engine, returned, len(self._prompt_ids), end)
        _check_ends(engine, self.sampled, self._rows, self._sampling)
        self._is_last = end == limit
        return self.sampled

    def goes_on(self) -> bool:
        """Whether there is another stage; asks who takes part in it."""
        if self.sampled is None or self._is_last:
            return False
        self._rows = self._stages.go_on(self.sampled)
        assert set(self._rows or ()) <= set(self.sampled.unfinished), "only unfinished completions go on"
        return self._rows is not None


def _checked(engine: Engine, batch: Any, rows: int, limit: int) -> SampledBatch:
    """What an engine has returned, if there is one completion per prompt, of one token or more within the limit."""
    name = type(engine).__name__
    if not isinstance(batch, SampledBatch):
        raise ValueError(f"engine: {name} returned {shortened(batch)}; return a SampledBatch")
    if batch.limit != limit:
        raise ValueError(f"engine: {name} returned a batch with limit {batch.limit} for {limit}; pass the limit on")
    batch = replace(batch, completion_ids=_token_ids(name, batch.completion_ids), finished=_ends(name, batch.finished))
    lengths = [len(ids) for ids in batch.completion_ids]
    for what, count in (("completions", len(lengths)), ("entries of finished", len(batch.finished))):
        if count != rows:
            raise ValueError(f"engine: {name} returned {count} {what} for {rows} prompts; return one for each")
    if not 0 < min(lengths, default=1) <= max(lengths, default=1) <= limit:
        raise ValueError(
            f"engine: {name} returned completions of {min(lengths)} to {max(lengths)} tokens for a limit of "
            f"{limit}; return 1 token or more, and no more than the limit"
        )
    return batch


def _check_ends(engine: Engine, batch: SampledBatch, rows: Iterable[int], sampling: Sampling) -> None:
    """What has finished ends with an end token, which training goes by; what has not, at the limit."""
    name, ends = type(engine).__name__, sampling.end_token_ids
    may_lack_token = engine.ends_without_token or not ends or bool(sampling.stop_strings)
    for row in rows:
        ids = batch.completion_ids[row]
        if not batch.finished[row] and len(ids) < batch.limit:
            raise ValueError(
                f"engine: {name} returned an unfinished completion of {len(ids)} tokens for a limit of {batch.limit}; "
                "sample up to the limit, or say that it has finished"
            )
        if batch.finished[row] and not may_lack_token and ids[-1] not in ends:
            raise ValueError(
                f"engine: {name} returned a finished completion whose last token is {ids[-1]}; let it end with an end "
                f"token ({', '.join(map(str, ends))}), or say that it has not finished"
            )


def _token_ids(engine: str, completions: Any) -> list[list[int]]:
    """Completions as lists of whole numbers, also where an engine has returned arrays or tensors."""
    try:
        ids = [[index(token) for token in completion] for completion in completions]
        if min(map(min, filter(None, ids)), default=0) >= 0:
            return ids
    except TypeError:  # no sequences, or no whole numbers in them
        pass
    raise ValueError(
        f"engine: {engine} returned completion_ids {shortened(completions)}; return a list of token ids for each prompt"
    )


def _ends(engine: str, finished: Any) -> list[bool]:
    """Whether each completion ended by itself, as a list."""
    try:
        return list(map(bool, finished))
    except TypeError:
        raise ValueError(
            f"engine: {engine} returned finished {shortened(finished)}; return True or False for each prompt"
        ) from None
