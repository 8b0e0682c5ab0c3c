"""What a policy is told of the time of a stage: the same on every rank, with the rows of all of them."""

from types import SimpleNamespace
from typing import Any

import pytest

from tinyzero_trl.generation.engine import SampledBatch, Sampling
from tinyzero_trl.training.rollout import group_stages
from tinyzero_trl.training.rollout.group_stages import StagedRollout
from tinyzero_trl.windows.step_cost import StepCost

ROWS, END = 4, 4
OTHER_RANK = [(3, 9, 7.0), (2, 5, 1.0)]  # its steps, rows and seconds in two stages


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stage_takes_as_long_as_on_the_slowest_rank(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
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
    trainer: Any = SimpleNamespace(accelerator=SimpleNamespace(process_index=rank), num_generations=ROWS, args=None)
    scores: Any = SimpleNamespace(score_finished=lambda *_: None, reward=lambda row: 0.0)
    policy: Any = SimpleNamespace(config=SimpleNamespace(success_threshold=1.0), go_on=lambda states: [True] * 2)
    monkeypatch.setattr(group_stages.trl_internals, "as_completions", lambda *_: [])
    rollout = StagedRollout(trainer, scores, policy, [{"prompt": "say"}] * ROWS)
    for limit, lengths in ((END, (4, 4, 2, 4)), (2 * END, (6, 4, 2, 8))):  # the second row stays where it is
        ids = [[7] * length for length in lengths]
        finished = [length != limit for length in lengths]
        rollout.go_on(SampledBatch([[1]] * ROWS, ids, finished, limit, Sampling()))
    of_the_other, of_this = (3, 2 * 9, 7.0), (4, 2 * 6, 1.5)
    assert rollout.facts()["timings"] == [of_the_other, of_this]


def test_what_has_no_score_says_nothing_of_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first group one finished completion has no score, of the second one has and one has not."""
    asked: list[Any] = []

    def go_on(states: list[Any]) -> list[bool]:
        asked.extend(states)
        return [False] * len(states)

    trainer: Any = SimpleNamespace(accelerator=SimpleNamespace(process_index=0), num_generations=ROWS, args=None)
    rewards = {1: None, 4: float("nan"), 5: 1.0, 9: 0.0}
    scores: Any = SimpleNamespace(score_finished=lambda *_: None, reward=rewards.get)
    policy: Any = SimpleNamespace(config=SimpleNamespace(success_threshold=1.0), go_on=go_on)
    monkeypatch.setattr(group_stages.trl_internals, "as_completions", lambda *_: [])
    rows = 3 * ROWS
    rollout = StagedRollout(trainer, scores, policy, [{"prompt": "say"}] * rows)
    finished = [row in rewards for row in range(rows)]
    ids = [[7] * (2 if done else END) for done in finished]
    goes_on = rollout.go_on(SampledBatch([[1]] * rows, ids, finished, END, Sampling()))
    assert goes_on == [0, 2, 3], "the first group, of which nobody knows how it does"
    counts = [(state.group, state.successes, state.failures, state.unfinished) for state in asked]
    assert counts == [(1, 1, 0, 2), (2, 0, 1, 3)]


def test_a_rank_without_rows_does_not_make_rows_look_free() -> None:
    """A step takes 10 ms and a row 1 ms on each of two ranks; the first has no rows in the last stage."""
    cost = StepCost()
    stages = [
        ((steps, rows * steps, steps * (0.01 * (rows > 0) + 0.001 * rows)) for rows in ranks)
        for steps, ranks in (
            (32, (8, 8)),
            (48, (4, 6)),
            (72, (0, 4)),
        )
    ]
    cost.add(group_stages._of_all_ranks(list(ranks)) for ranks in stages)
    assert cost.rows_per_step == pytest.approx(20), "in rows of both ranks"
