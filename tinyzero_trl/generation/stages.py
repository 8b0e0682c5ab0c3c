"""Sampling in stages: between two of them somebody decides which sequences go on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tinyzero_trl.generation.engine import Engine, SampledBatch, Sampling

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


def sample(
    engine: Engine, prompt_ids: Sequence[list[int]], sampling: Sampling, limit: int, stages: Stages | None = None
) -> SampledBatch:
    """One completion per prompt of `limit` tokens at most, in stages if there are any.

    Raises:
        ValueError: the engine does not return what it must.
    """
    first, *further = [*(end for end in (stages.ends if stages else ()) if end < limit), limit]
    batch = _checked(engine, engine.start(prompt_ids, sampling, first), len(prompt_ids))
    for end in further:
        assert stages is not None
        rows = stages.go_on(batch)
        if rows is None:
            break
        assert set(rows) <= set(batch.unfinished), "only unfinished completions go on"
        batch = _checked(engine, engine.extend(batch, rows, end), len(prompt_ids))
    return batch


def _checked(engine: Engine, batch: SampledBatch, rows: int) -> SampledBatch:
    """What an engine has returned, if there is one completion per prompt, of one token or more within the limit."""
    name, lengths = type(engine).__name__, [len(ids) for ids in batch.completion_ids]
    if (len(lengths), len(batch.finished)) != (rows, rows):
        raise ValueError(f"engine: {name} returned {len(lengths)} completions for {rows} prompts; return one for each")
    if not 0 < min(lengths, default=1) <= max(lengths, default=1) <= batch.limit:
        raise ValueError(
            f"engine: {name} returned completions of {min(lengths)} to {max(lengths)} tokens for a limit of "
            f"{batch.limit}; return 1 token or more, and no more than the limit"
        )
    return batch
