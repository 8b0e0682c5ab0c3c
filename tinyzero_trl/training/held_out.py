"""Held-out examples, answered at the full length while training: each counts once, by its score."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset

from tinyzero_trl.metrics import evaluation_metrics
from tinyzero_trl.training.callbacks.events import Evaluation
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.prompt_keys import prompt_key
from tinyzero_trl.training.scoring import SAMPLED_COMPLETIONS, ScoredRows

Example = dict[str, Any]


class HeldOutEvaluator:
    """Turns the scored rows of an evaluation into its `eval/` figures.

    Sampling has random numbers of its own, so that how often one evaluates changes no training step. Of several
    evaluation sets, each has figures of its own (`eval_NAME/acc`), and `eval/` figures cover all their examples.
    """

    def __init__(self, args: AdaptiveGRPOConfig) -> None:
        assert args.num_generations is not None, "TRL sets it"
        self._success_threshold = args.window_config().success_threshold
        self._num_generations = args.num_generations_eval or args.num_generations
        self._best_metric = args.metric_for_best_model
        self._wants_loss = args.compute_eval_loss
        self._device = args.device
        self._number_columns: dict[str, list[Dataset]] = {}  # the data sets that have numbers under this name
        self._rows: list[dict[str, Any]] = []  # of this rank and of the set being answered
        self._sets: list[list[dict[str, Any]]] | None = None  # rows of the sets answered so far, over all ranks
        self._figures_of_sets: dict[str, float] = {}

    @property
    def needs_loss(self) -> bool:
        """Whether TRL's loss on held-out examples is computed: if it is asked for, or chooses the best model."""
        return self._wants_loss or "loss" in (self._best_metric or "")

    @contextmanager
    def first_for_new_runs(self, args: AdaptiveGRPOConfig, *, is_new: bool) -> Iterator[None]:
        """Inside the context, `eval_on_start` evaluates before the first step of a new run alone."""
        wanted = args.eval_on_start
        args.eval_on_start = wanted and is_new
        try:
            yield
        finally:
            args.eval_on_start = wanted

    def numbered(self, dataset: Any) -> Any:
        """Evaluation examples with a number each, by which the one that is answered twice is known.

        The column has a name that is not the user's. Streams stay as they are.
        """
        if isinstance(dataset, dict):
            return {name: self.numbered(each) for name, each in dataset.items()}
        is_known = any(dataset is each for known in self._number_columns.values() for each in known)
        if not isinstance(dataset, Dataset) or is_known:
            return dataset
        name = "_held_out_number"
        while name in dataset.column_names:
            name += "_"
        result = dataset.add_column(name, list(range(len(dataset))))
        self._number_columns.setdefault(name, []).append(result)
        return result

    def without_numbers(self, examples: Sequence[Example]) -> list[Example]:
        """The examples as the user gave them."""
        return [{name: value for name, value in each.items() if name != self._column(each)} for each in examples]

    def add(self, examples: Sequence[Example], scored: ScoredRows) -> None:
        """Take in a batch of this rank.

        Where examples have no numbers, as in a stream or with `remove_unused_columns`, every row counts, and the prompt
        says which problem it answers. So two examples with the same prompt are one problem there. Where an environment
        owns the prompts, the whole example says it.
        """
        for example, sample in zip(examples, scored.samples, strict=True):
            column = self._column(example)
            number = example[column] if column else prompt_key(example.get("prompt", example))
            self._rows.append({**sample, "index": number})

    def measure(
        self, evaluate: Callable[[], dict[str, float]], *, seed: int, prefix: str = "eval"
    ) -> tuple[dict[str, float], Evaluation | None]:
        """Run an evaluation on every rank.

        Args:
            evaluate: Trainer's own evaluation, during which `add` is called. Given several sets, it calls this method
                for each of them.
            seed: of this rank's sampling.
            prefix: what Trainer's figures start with; ours have a slash behind it.

        Returns:
            Trainer's figures with ours, and the evaluation over all ranks; None for one of several sets, and for a
            prefix of the user's own, whose figures are no part of the run's records.
        """
        sets: list[list[dict[str, Any]]] = []
        enclosing, self._sets, self._rows = self._sets, sets, []
        if enclosing is None:
            self._figures_of_sets = {}
        started_at = time.perf_counter()
        try:
            with random_numbers_of_its_own(seed, self._device):
                logged = evaluate()
        finally:
            self._sets = enclosing
        rows = [row for each in sets for row in each] if sets else self._each_once(gather_object(self._rows))
        figures = self._figures(rows, prefix)
        metrics = {**logged, **figures, **self._best_figure(figures)}
        if enclosing is not None:
            enclosing.append([{**row, "index": (len(enclosing), row["index"])} for row in rows])
            self._figures_of_sets |= figures
            return metrics, None
        if not prefix.startswith("eval"):
            return metrics, None
        figures = {**figures, **self._figures_of_sets}
        return metrics, Evaluation(figures, time.perf_counter() - started_at, rows[:SAMPLED_COMPLETIONS])

    def _figures(self, rows: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, float]:
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
        return {f"eval_{best}": figures[best]} if best is not None and best in figures else {}

    def _column(self, example: Example) -> str | None:
        """Where the example has its number. A name of ours that the user has too is the shorter of the two."""
        return max((name for name in self._number_columns if name in example), key=len, default=None)

    def _each_once(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
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


@contextmanager
def random_numbers_of_its_own(seed: int, device: torch.device) -> Iterator[None]:
    """Inside the context, draw from `seed`; afterwards the host and `device` go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield
