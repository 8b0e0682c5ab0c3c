"""A rollout in stages: at the end of each, the window policy decides which groups go on."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from tinyzero_trl.generation.engine import SampledBatch
from tinyzero_trl.generation.stages import Stages
from tinyzero_trl.training import trl_internals
from tinyzero_trl.training.preflight.problems import check_label_column
from tinyzero_trl.training.preflight.stages import check_full_length, check_stage_trainer
from tinyzero_trl.training.rollout.rollouts import Rollouts
from tinyzero_trl.training.rollout.scoring import prompt_key
from tinyzero_trl.training.rollout.stage_scores import StageScores
from tinyzero_trl.windows import GroupState, WindowPolicy
from tinyzero_trl.windows.config import label_column_of
from tinyzero_trl.windows.outcomes import is_judged, is_success
from tinyzero_trl.windows.own_policies import checked_answers, checked_stages

_UNFINISHED, _SUCCESS, _FAILURE, _UNJUDGED = range(4)


class GroupStages:
    """The stages of a rollout whose window policy decides per group.

    Groups may span ranks: their states are gathered, and all ranks ask the policy the same. The answers of the first
    rank hold for all, because a policy of one's own may draw random numbers, and processors may round differently.

    Args:
        trainer: a `trl.GRPOTrainer`.
        rollouts: what it samples by.
    """

    def __init__(self, trainer: Any, rollouts: Rollouts) -> None:
        self._trainer, self._rollouts = trainer, rollouts
        self._rollout: StagedRollout | None = None  # the latest one, if it has stages

    def check(self, policy: WindowPolicy) -> None:
        """Whether the trainer can sample the rollouts of `policy`, asked before the first.

        Raises:
            ValueError: the window does not limit what the trainer samples; the policy has several stages and the
                trainer cannot sample in them; or there are no labels.
        """
        checked_stages(policy)
        check_full_length(self._trainer, policy)
        check_label_column(self._trainer.train_dataset.column_names, policy.config, self._trainer.args)
        if policy.samples_in_stages:
            check_stage_trainer(self._trainer)
            accelerator, model = self._trainer.accelerator, self._trainer.model_wrapped
            self._rollouts.check_stages(accelerator.unwrap_model(model, keep_torch_compile=False))

    @contextmanager
    def in_stages_of(self, policy: WindowPolicy, examples: Sequence[Any]) -> Iterator[None]:
        """Within it, the trainer samples a rollout in the stages of `policy`, which may be one.

        Args:
            policy: says which groups go on.
            examples: of this rank's rows.

        Raises:
            ValueError: as `check`; a policy may be assigned while training runs.
        """
        self._rollout = None
        self.check(policy)
        *ends, _ = checked_stages(policy)
        if not ends:
            yield
            return
        scores = StageScores(self._trainer, examples)
        rollout = self._rollout = StagedRollout(self._trainer, scores, policy, examples)
        with scores.in_place(), self._rollouts.in_stages(Stages(ends, rollout.go_on)):
            yield

    def facts(self) -> dict[str, Any]:
        """What an observation of the latest rollout holds besides its completions."""
        return self._rollout.facts() if self._rollout else {}


class StagedRollout:
    """One rollout in stages."""

    def __init__(self, trainer: Any, scores: StageScores, policy: WindowPolicy, examples: Sequence[Any]) -> None:
        self._trainer, self._scores, self._policy, self._examples = trainer, scores, policy, examples
        if examples:  # of a stream nobody knows the columns beforehand
            check_label_column(list(examples[0]), policy.config, self._trainer.args)
        column = label_column_of(policy.config)
        known = gather_object([(_label(example, column), prompt_key(example["prompt"])) for example in examples])
        self._labels, self._prompt_keys = [label for label, _ in known], [key for _, key in known]  # of all ranks
        self._outcomes = [_UNFINISHED] * len(examples)  # of this rank's rows, and so is the next
        self._tokens = [0] * len(examples)
        self._timings: list[tuple[int, int, float]] = []
        self._stage_began_at = time.perf_counter()

    def go_on(self, batch: SampledBatch) -> list[int] | None:
        """The rows of this rank that go on; None where no row of any rank does. Every rank must ask at every end."""
        timing = self._timing(batch)
        self._score(batch)
        running = [
            not done and len(ids) == batch.limit for ids, done in zip(batch.completion_ids, batch.finished, strict=True)
        ]
        parts = gather_object([(self._outcomes, running, timing)])
        self._timings.append(_of_all_ranks([timing for *_, timing in parts]))
        outcomes = [outcome for part, _, _ in parts for outcome in part]
        runs = [run for _, part, _ in parts for run in part]
        states = self._states(batch.limit, outcomes, runs)
        [answers] = broadcast_object_list([checked_answers(self._policy, states)])
        self._stage_began_at = time.perf_counter()
        stops = {state.group for state, answer in zip(states, answers, strict=True) if not answer}
        size = self._trainer.num_generations
        if all(row // size in stops for row, run in enumerate(runs) if run):
            return None
        first = self._trainer.accelerator.process_index * len(running)
        return [row for row, run in enumerate(running) if run and (first + row) // size not in stops]

    def facts(self) -> dict[str, Any]:
        """Labels, prompt keys and timings."""
        return {"labels": self._labels, "prompt_keys": self._prompt_keys, "timings": self._timings}

    def _states(self, end: int, outcomes: Sequence[int], runs: Sequence[bool]) -> list[GroupState]:
        """Of the groups with rows that may go on, over all ranks.

        Completions that finished without a score are left out; so are groups of which nothing else has finished, which
        go on: nothing tells how they do.
        """
        size, states = self._trainer.num_generations, []
        for first in range(0, len(outcomes), size):
            rows = slice(first, first + size)
            won, lost, unjudged = (outcomes[rows].count(kind) for kind in (_SUCCESS, _FAILURE, _UNJUDGED))
            if any(runs[rows]) and (won + lost or not unjudged):
                unfinished = size - won - lost - unjudged
                label, key = self._labels[first], self._prompt_keys[first]
                states.append(GroupState(first // size, end, won, lost, unfinished, label, key))
        return states

    def _score(self, batch: SampledBatch) -> None:
        """Score what has finished in this stage."""
        rows = [row for row, done in enumerate(batch.finished) if done and self._outcomes[row] == _UNFINISHED]
        prompts, ids = [batch.prompt_ids[row] for row in rows], [batch.completion_ids[row] for row in rows]
        examples = [self._examples[row] for row in rows]
        completions = trl_internals.as_completions(self._trainer, prompts, ids, examples)
        self._scores.score_finished(rows, completions, ids)
        for row in rows:
            reward = self._scores.reward(row)
            if not is_judged(reward):
                self._outcomes[row] = _UNJUDGED
            else:
                succeeds = is_success(reward, self._policy.config.success_threshold)
                self._outcomes[row] = _SUCCESS if succeeds else _FAILURE

    def _timing(self, batch: SampledBatch) -> tuple[int, int, float]:
        """Steps of the stage, its rows summed over these steps, and its seconds, on this rank."""
        before, self._tokens = self._tokens, [len(ids) for ids in batch.completion_ids]
        new = [now - then for now, then in zip(self._tokens, before, strict=True)]
        return max(new, default=0), sum(new), time.perf_counter() - self._stage_began_at


def _of_all_ranks(timings: Sequence[tuple[int, int, float]]) -> tuple[int, int, float]:
    """Those of the slowest rank, which the others wait for, as if all ranks had as many rows; the same on each rank."""
    steps, rows, seconds = max(timings, key=lambda timing: timing[2])
    return steps, rows * len(timings), seconds


def _label(example: Any, column: str) -> str:
    value = example.get(column) if column else None
    return "" if value is None else str(value)
