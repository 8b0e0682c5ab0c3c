"""The figures that TRL's loss logs once per call, as one weighted value per optimizer step."""

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator

Metrics = dict[str, list[float]]

# The means, smallest and largest values that TRL's loss appends to its metrics on every call.
_NAMES = ("entropy", "kl", "cispo_clip_ratio")
_PREFIXES = ("clip_ratio/", "vespo/")


class LossMetrics:
    """Holds back what each micro-batch appends, and appends one value per figure when the optimizer step is over.

    TRL averages its figures over calls. Over micro-batches of unequal size such a mean has no meaning, so every value
    is weighted by the tokens (or rows, where TRL averages over rows) of all ranks behind it; smallest and largest
    values stay smallest and largest. A figure with nothing behind it is not appended at all.
    """

    def __init__(self, *, is_sequence_level: bool) -> None:
        """Set `is_sequence_level` where importance ratios, and so clip ratios, come one per row."""
        self._is_sequence_level = is_sequence_level
        self._values: dict[str, list[tuple[float, float]]] = defaultdict(list)

    @contextlib.contextmanager
    def collect(self, metrics: Metrics, *, tokens: float, rows: float) -> Iterator[None]:
        """Move what is appended to `metrics` inside the context out of it.

        Args:
            metrics: the trainer's lists of values, by name.
            tokens: trained tokens of this micro-batch on all ranks.
            rows: rows of this micro-batch on all ranks.
        """
        lengths = {name: len(values) for name, values in metrics.items()}
        yield
        for name, values in metrics.items():
            if name in _NAMES or name.startswith(_PREFIXES):
                start = lengths.get(name, 0)
                weight = rows if self._is_mean_over_rows(name) else tokens
                self._values[name] += [(value, weight) for value in values[start:]]
                del values[start:]

    def flush(self, metrics: Metrics) -> None:
        """Append one value per figure to `metrics` and start the next optimizer step."""
        for name, weighted in self._values.items():
            known = [(value, weight) for value, weight in weighted if weight and not math.isnan(value)]
            if known:
                metrics[name].append(_merged(name, known))
            elif not metrics[name]:
                # TRL logs a name without values as None.
                del metrics[name]
        self.clear()

    def clear(self) -> None:
        """Forget what has been held back."""
        self._values.clear()

    def _is_mean_over_rows(self, name: str) -> bool:
        return name.startswith("vespo/") or (self._is_sequence_level and "clip_ratio" in name)


def _merged(name: str, weighted: list[tuple[float, float]]) -> float:
    if name.endswith("_min"):
        return min(value for value, _ in weighted)
    if name.endswith("_max"):
        return max(value for value, _ in weighted)
    return math.fsum(value * weight for value, weight in weighted) / math.fsum(weight for _, weight in weighted)
