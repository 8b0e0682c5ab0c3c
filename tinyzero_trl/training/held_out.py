"""Held-out examples, answered at the full length while training: each counts once, by its score."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset

from tinyzero_trl.metrics import evaluation_metrics
from tinyzero_trl.training.callbacks.events import Evaluation
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.scoring import SAMPLED_COMPLETIONS, ScoredRows

EXAMPLE_NUMBER = "held_out_number"


def numbered(dataset: Any) -> Any:
    """Evaluation examples with a number each, by which the one that is answered twice is known.

    Raises:
        ValueError: several data sets, whose figures would have one name.
    """
    if isinstance(dataset, dict):
        names = ", ".join(map(str, dataset))
        raise ValueError(f"eval_dataset: {names}: each evaluation is of one data set; give one of them, or join them")
    if not isinstance(dataset, Dataset) or EXAMPLE_NUMBER in dataset.column_names:
        return dataset
    return dataset.add_column(EXAMPLE_NUMBER, list(range(len(dataset))))


class HeldOutEvaluator:
    """Turns the scored rows of an evaluation into its `eval/` figures.

    Sampling has random numbers of its own, so that how often one evaluates changes no training step.
    """

    def __init__(self, args: AdaptiveGRPOConfig) -> None:
        assert args.num_generations is not None, "TRL sets it"
        self._success_threshold = args.window_config().success_threshold
        self._num_generations = args.num_generations_eval or args.num_generations
        self._best_metric = args.metric_for_best_model
        self._process_index = args.process_index
        self._device = args.device
        self._rows: list[dict[str, Any]] = []

    @property
    def needs_loss(self) -> bool:
        """Whether TRL's loss on held-out examples is needed: only if it chooses the best model."""
        return "loss" in (self._best_metric or "")

    def add(self, inputs: Sequence[dict[str, Any]], scored: ScoredRows) -> None:
        """Take in a batch of this rank; where examples have no numbers, as in a stream, every row counts."""
        seen = len(self._rows)
        self._rows += [
            {**sample, "index": example.get(EXAMPLE_NUMBER, f"{self._process_index}:{seen + row}")}
            for row, (example, sample) in enumerate(zip(inputs, scored.samples, strict=True))
        ]

    def measure(self, evaluate: Callable[[], dict[str, float]], *, seed: int) -> tuple[dict[str, float], Evaluation]:
        """Run an evaluation on every rank.

        Args:
            evaluate: Trainer's own evaluation, during which `add` is called.
            seed: of this rank's sampling.

        Returns:
            Trainer's figures with ours, and the evaluation over all ranks.
        """
        self._rows = []
        started_at = time.perf_counter()
        with random_numbers_of_its_own(seed, self._device):
            logged = evaluate()
        rows = self._each_once(gather_object(self._rows))
        figures = evaluation_metrics(
            rewards=[row["reward"] for row in rows],
            lengths=[row["length"] for row in rows],
            truncated=[row["truncated"] for row in rows],
            difficulties=[row["difficulty"] for row in rows],
            success_threshold=self._success_threshold,
        )
        evaluation = Evaluation(figures, time.perf_counter() - started_at, rows[:SAMPLED_COMPLETIONS])
        best = self._best_metric  # Trainer looks for it under a prefix of its own
        best_figure = {f"eval_{best}": figures[best]} if best in figures else {}
        return {**logged, **figures, **best_figure}, evaluation

    def _each_once(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The last batch is filled up with repeated examples when ranks do not divide it: here they are left out."""
        counts: Counter[Any] = Counter()
        kept = []
        for row in rows:
            counts[row["index"]] += 1
            if counts[row["index"]] <= self._num_generations:
                kept.append(row)
        return kept


@contextmanager
def random_numbers_of_its_own(seed: int, device: torch.device) -> Iterator[None]:
    """Inside the context, draw from `seed`; afterwards the host and `device` go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield
