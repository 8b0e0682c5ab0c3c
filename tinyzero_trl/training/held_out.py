"""Held-out examples, answered at the full length while training: each counts once, by its score.

An evaluation runs in this order. Of several sets, Trainer evaluates one after the other, each by `evaluate` too:

    evaluate                the method of the trainer calls it
      measure               draws random numbers of its own, and times
        add                 a batch has been scored
        join_figures        Trainer logs the set: its figures join, with the last of several sets those of all examples
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset

from tinyzero_trl.metrics import evaluation_metrics
from tinyzero_trl.replacing import replaced
from tinyzero_trl.training import trl_internals
from tinyzero_trl.training.callbacks.events import Evaluation, fire
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.preflight.best_figure import check_best_figure_is_there
from tinyzero_trl.training.rollout.scoring import SAMPLED_COMPLETIONS, ScoredRows, prompt_key

Example = dict[str, Any]
Row = dict[str, Any]

_TEXTS = ("prompt", "completion")


@dataclass
class _UnderWay:
    """An evaluation that is under way, and the rows of the sets that have been answered, over all ranks."""

    prefix: str  # of its figures
    sets: list[str]  # the prefixes of its sets, in the order in which Trainer evaluates them
    answered: list[list[Row]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, examples: Any, prefix: str) -> "_UnderWay":
        """Several sets are a mapping; a single one has no name, and so the prefix of the evaluation."""
        names = list(examples) if isinstance(examples, dict) else []
        return cls(prefix, [f"{prefix}_{name}" for name in names] or [prefix])

    @property
    def has_named_sets(self) -> bool:
        return self.sets != [self.prefix]

    @property
    def current(self) -> str | None:
        """The prefix of the set that is being answered; None once all are."""
        return next(iter(self.sets[len(self.answered) :]), None)

    @property
    def rows(self) -> list[Row]:
        """Of all sets; the problems of two sets are not the same, whatever their numbers."""
        if not self.has_named_sets:
            return [row for rows in self.answered for row in rows]
        return [{**row, "index": (place, row["index"])} for place, rows in enumerate(self.answered) for row in rows]


class HeldOutEvaluator:
    """Turns the scored rows of an evaluation into its `eval/` figures.

    Sampling has random numbers of its own, so that how often one evaluates changes no training step. Of several
    evaluation sets, each has figures of its own (`eval_NAME/acc`), and `eval/` figures cover all their examples: they
    come with those of the last set.
    """

    def __init__(self, args: AdaptiveGRPOConfig) -> None:
        assert args.num_generations is not None, "TRL sets it"
        self._success_threshold = args.window_config().success_threshold
        self._num_generations = args.num_generations_eval or args.num_generations
        self._best_metric = args.metric_for_best_model
        self._wants_loss = args.compute_eval_loss
        self._device = args.device
        self.numbers = ExampleNumbers()
        self._rows: list[Row] = []  # of this rank and of the set being answered
        self._under_way: _UnderWay | None = None

    @property
    def needs_loss(self) -> bool:
        """Whether TRL's loss is computed: in `predict`, in evaluations if asked for, or to choose the best model."""
        return self._under_way is None or self._wants_loss or "loss" in (self._best_metric or "")

    def add(self, examples: Sequence[Example], scored: ScoredRows) -> None:
        """Take in a batch of this rank.

        Where examples have no numbers, as in a stream or with `remove_unused_columns`, every row counts, and the prompt
        says which problem it answers. So two examples with the same prompt are one problem there. Where an environment
        owns the prompts, the whole example says it.
        """
        for example, sample in zip(examples, scored.samples, strict=True):
            number = self.numbers.of(example)
            index = prompt_key(example.get("prompt", example)) if number is None else number
            kept = sample  # whose texts go to every rank, so those that are recorded alone have them
            if len(self._rows) >= SAMPLED_COMPLETIONS:
                kept = {name: value for name, value in sample.items() if name not in _TEXTS}
            self._rows.append({**kept, "index": index})

    def measure(
        self, evaluate: Callable[[], dict[str, float]], examples: Any = None, *, seed: int, prefix: str = "eval"
    ) -> tuple[dict[str, float], Evaluation | None]:
        """Run an evaluation on every rank.

        Args:
            evaluate: Trainer's own evaluation, during which `add` and `join_figures` are called. Given several sets,
                it calls this method for each of them.
            examples: what is evaluated; several sets are a mapping.
            seed: of this rank's sampling.
            prefix: what Trainer's figures start with; ours have a slash behind it.

        Returns:
            Trainer's figures with ours, and the evaluation over all ranks; None for one of several sets, and for a
            prefix of the user's own, whose figures are no part of the run's records.
        """
        enclosing, started_at = self._under_way, time.perf_counter()
        if enclosing is not None and enclosing.current == prefix:  # one of its sets
            under_way = enclosing
        else:
            under_way = _UnderWay.of(examples, prefix)
        self._rows, self._under_way = [], under_way
        try:
            with random_numbers_of_its_own(seed, self._device):
                metrics = evaluate()
                if under_way.current == prefix:  # nothing was logged
                    metrics = {**metrics, **self._figures_of_set(under_way)}
        finally:
            self._under_way = enclosing
        if under_way is enclosing or prefix != "eval":
            return metrics, None
        samples = under_way.rows[:SAMPLED_COMPLETIONS]
        return metrics, Evaluation(under_way.figures, time.perf_counter() - started_at, samples)

    def join_figures(self, logs: dict[str, float], history: Sequence[dict[str, float]]) -> None:
        """Add our figures to what Trainer has logged of a set that has been answered; every rank must call it.

        Args:
            logs: what was logged, which Trainer goes on to show to `on_evaluate`, and returns. Other logs, as those of
                a step, stay as they are.
            history: the lines of the log in which it stands.
        """
        under_way = self._under_way
        if under_way is None or f"{under_way.current}_runtime" not in logs:
            return
        figures = self._figures_of_set(under_way)
        for line in (logs, *history):
            line.update(figures)

    def _figures_of_set(self, under_way: _UnderWay) -> dict[str, float]:
        """Of the set that has been answered now, over all ranks; with the last of several sets, of all their examples.

        With the figure that chooses the best model under the name by which Trainer looks for it, too.
        """
        rows = self._each_once(gather_object(self._rows))
        figures = self._figures(rows, str(under_way.current))
        under_way.answered.append(rows)
        is_last_of_several = under_way.has_named_sets and under_way.current is None
        of_all = self._figures(under_way.rows, under_way.prefix) if is_last_of_several else {}
        under_way.figures = {**of_all, **under_way.figures, **figures}
        new = {**figures, **of_all}
        return {**new, **self._best_figure(new)}

    def _figures(self, rows: Sequence[Row], prefix: str) -> dict[str, float]:
        figures = evaluation_metrics(
            rewards=[row["reward"] for row in rows],
            lengths=[row["length"] for row in rows],
            truncated=[row["truncated"] for row in rows],
            difficulties=[row["difficulty"] for row in rows],
            problems=[row["index"] for row in rows],
            success_threshold=self._success_threshold,
        )
        return {prefix + name.removeprefix("eval"): value for name, value in figures.items()}

    def _best_figure(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The figure that chooses the best model, under the name by which Trainer looks for it."""
        best = self._best_metric
        if best is None or best not in figures or best.startswith("eval_"):
            return {}
        return {f"eval_{best}": figures[best]}

    def _each_once(self, rows: Sequence[Row]) -> list[Row]:
        """The last batch is filled up with repeated examples when ranks do not divide it: here they are left out.

        Without numbers they stay: nothing tells them from another example with the same prompt.
        """
        counts: Counter[Any] = Counter()
        kept = []
        for row in rows:
            counts[row["index"]] += 1
            if counts[row["index"]] <= self._num_generations or not isinstance(row["index"], int):
                kept.append(row)
        return kept


class ExampleNumbers:
    """Gives held-out examples a number each, by which one that is answered twice is known.

    It stands in a column whose name is not the user's.
    """

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


def evaluate(
    trainer: Any, answer: Callable[..., dict[str, float]], dataset: Any, ignore_keys: Any, prefix: str
) -> dict[str, float]:
    """Run an evaluation of a trainer, on every rank, and fire its event where it is one of the run.

    Args:
        trainer: an `AdaptiveGRPOTrainer`.
        answer: Trainer's own `evaluate`, for the arguments that follow.
        dataset: None for the trainer's own. The figures of any other are returned and not recorded.
        ignore_keys: as for Trainer.
        prefix: what the figures start with.

    Raises:
        ValueError: the figure that chooses the best model is not among those of the run's own evaluation.
    """
    own = trainer.eval_dataset
    given = own if dataset is None else dataset
    answers = partial(answer, dataset, ignore_keys, prefix)
    trl_internals.forget_unlogged_evaluation(trainer)
    metrics, evaluation = trainer.evaluator.measure(answers, given, seed=trainer.rollouts.seed, prefix=prefix)
    if evaluation is not None and given is own:
        fire(trainer, "on_evaluation_end", evaluation=evaluation)
    if dataset is None and trainer.is_in_train:
        check_best_figure_is_there(trainer.args.metric_for_best_model, metrics)
    return metrics


def first_for_new_runs(args: AdaptiveGRPOConfig, *, is_new: bool) -> AbstractContextManager[None]:
    """Inside the context, `eval_on_start` evaluates before the first step of a new run alone."""
    return replaced(args, "eval_on_start", args.eval_on_start and is_new)


@contextmanager
def random_numbers_of_its_own(seed: int, device: torch.device) -> Iterator[None]:
    """Inside the context, draw from `seed`; afterwards the host and `device` go on as if nothing had been drawn.

    NumPy, too: on a GPU vLLM draws the seed of each completion from its global state. And Python, from which a reward
    function may draw, and TRL the completions that it prints.
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)
