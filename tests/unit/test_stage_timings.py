"""What a policy is told of the time of a stage: the same on every rank, with the rows of all of them."""

from types import SimpleNamespace
from typing import Any

import pytest

from tinyzero_trl.generation.engine import SampledBatch, Sampling
from tinyzero_trl.training import group_stages
from tinyzero_trl.training.group_stages import StagedRollout

ROWS, END = 4, 4
OTHER_RANK = [(3, 9, 7.0), (2, 5, 1.0)]  # its steps, rows and seconds in two stages


@pytest.mark.parametrize(("rank", "expected"), [(0, [(4, 23, 2.5), (4, 11, 1.5)]), (1, [(3, 23, 7.0), (2, 11, 1.0)])])
def test_rows_are_those_of_all_ranks_and_the_clock_is_that_of_the_first(
    rank: int, expected: list[tuple[int, int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter((10.0, 12.5, 20.0, 21.5, 30.0))  # begins, stage ends, goes on, stage ends, goes on
    monkeypatch.setattr(group_stages.time, "perf_counter", lambda: next(ticks))
    stage = iter(range(2))

    def gather(own: list[Any]) -> list[Any]:
        if len(own) == ROWS:  # labels and keys of the rows
            return [*own, *own]
        [(outcomes, running, _)] = own
        other = (outcomes, running, OTHER_RANK[next(stage)])
        return [*own, other] if rank == 0 else [other, *own]

    monkeypatch.setattr(group_stages, "gather_object", gather)
    trainer: Any = SimpleNamespace(accelerator=SimpleNamespace(process_index=rank), num_generations=ROWS)
    scores: Any = SimpleNamespace(at_stage_end=lambda *_: None, reward=lambda row: 0.0)
    policy: Any = SimpleNamespace(config=SimpleNamespace(success_threshold=1.0), go_on=lambda states: [True] * 2)
    monkeypatch.setattr(group_stages.trl_internals, "as_completions", lambda *_: [])
    rollout = StagedRollout(trainer, scores, policy, [{"prompt": "say"}] * ROWS)
    for limit, lengths in ((END, (4, 4, 2, 4)), (2 * END, (6, 4, 2, 8))):  # the second row stays where it is
        ids = [[7] * length for length in lengths]
        finished = [length != limit for length in lengths]
        rollout.go_on(SampledBatch([[1]] * ROWS, ids, finished, limit, Sampling()))
    assert rollout.facts()["timings"] == expected
