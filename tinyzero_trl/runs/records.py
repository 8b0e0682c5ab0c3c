"""The run directory and its JSON lines: one schema, written and read here alone.

    config.yaml         the configuration as resolved       environment.json  versions, devices, commit
    metrics.jsonl       one object per step                 eval.jsonl        one object per evaluation
    completions/step_000040.jsonl   sampled completions     summary.json      the result of a finished run

A run that is kept may have its lines compressed: `gzip metrics.jsonl`. The configurations and environments of a run
group that is kept may stand in one file (`gathered.py`).

Every line is flushed when it is written, so a killed run loses at most the line being written; such a partially
written last line is dropped on reading and on resuming. Other files are replaced atomically. The JSON is strict: a
figure that is not finite is left out, as one without samples is.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from tinyzero_trl.messages import shortened
from tinyzero_trl.runs import gathered
from tinyzero_trl.runs.environment import describe_environment
from tinyzero_trl.runs.files import write_atomically
from tinyzero_trl.runs.gathered import gathered_file, read_gathered
from tinyzero_trl.runs.json_lines import (
    drop_partial_line,
    is_finite_number,
    json_text,
    plain,
    read_figures,
    read_lines,
    read_object,
    unpack,
)
from tinyzero_trl.runs.lock import LOCK
from tinyzero_trl.runs.missing_steps import missing_steps
from tinyzero_trl.runs.redaction import without_secrets
from tinyzero_trl.runs.strict_yaml import read_mapping
from tinyzero_trl.windows.outcomes import FULL_REWARD

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
EVAL = "eval.jsonl"
SUMMARY = "summary.json"
COMPLETIONS = "completions"
ARGUMENTS = "arguments.json"
"""What a grid has begun a run with, beside the records of the run."""

MOST_SAMPLES = 16
"""Completions of one step that are kept."""

MOST_CHARACTERS = 20_000
"""Longest text that is kept of one prompt or completion; a mark stands for the rest."""

HELD_OUT_PROMPTS = "held_out_prompts"
"""In environment.json: a digest of the held-out prompts, by which reports know that two runs were asked the same."""

EXAMPLES = "examples"
"""In environment.json: digests of the training and held-out examples, as whole rows with their right answers."""

TASK_OPTIONS = "task_options"
"""In environment.json: the fields of config.yaml that are options of the run's task."""


class RunRecords:
    """Writes one run directory. Only the main process of a run may hold one.

    Opening an existing directory unpacks compressed lines, drops partially written last ones and keeps the rest;
    `truncate_after` then sets the records back to the checkpoint that training continues from, or to nothing with a
    step of -1.

    Args:
        path: the run directory; created if it is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        unpack(self.path / METRICS)
        unpack(self.path / EVAL)
        for lines in self._line_files():
            drop_partial_line(lines)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved configuration without its secrets; values YAML has no type for are written as text."""
        text = yaml.safe_dump(without_secrets(plain(config)), sort_keys=False, allow_unicode=True)
        write_atomically(self.path / CONFIG, text)

    def write_environment(self, devices: Sequence[str] = (), **facts: Any) -> None:
        """Write versions, platform, git commit, the names of the devices in use, and further `facts`."""
        environment = without_secrets(plain(describe_environment() | {"devices": list(devices)} | facts))
        write_atomically(self.path / ENVIRONMENT, json_text(environment, indent=2) + "\n")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the run's result; a run that has one counts as finished."""
        write_atomically(self.path / SUMMARY, json_text(summary, indent=2) + "\n")

    def append_metrics(self, step: int, time_s: float, metrics: Mapping[str, Any]) -> None:
        """Append the figures of the rollout at optimizer step `step`, `time_s` seconds into the run."""
        place = {"step": step, "time_s": time_s}  # first in the line, and no figure's name
        self._append(self.path / METRICS, [{**place, **metrics, **place}])

    def append_eval(self, step: int, time_s: float, tokens: int, metrics: Mapping[str, Any]) -> None:
        """Append an evaluation: the rollout tokens generated so far and the `eval/` figures.

        With `time/elapsed_s` in `metrics` (training time without evaluation) comparisons of wall-clock do not
        depend on how often a run evaluates.
        """
        place = {"step": step, "time_s": time_s, "tokens": tokens}
        self._append(self.path / EVAL, [{**place, **metrics, **place}])

    def append_completions(self, step: int, samples: Iterable[Mapping[str, Any]]) -> None:
        """Append sampled completions of `step`, at most `MOST_SAMPLES` of them.

        Known keys: `source` (train or eval), `prompt`, `completion`, `reward`, `reason`, `length` (tokens),
        `truncated`, `difficulty`; further keys are kept.
        """
        kept = [
            {"step": step, **{key: _cut(value) for key, value in sample.items()}}
            for sample in islice(samples, MOST_SAMPLES)
        ]
        folder = self.path / COMPLETIONS
        folder.mkdir(exist_ok=True)
        self._append(folder / f"step_{step:06d}.jsonl", kept)

    def truncate_after(self, step: int) -> None:
        """Drop every line and sample later than `step`, so that a resumed run neither loses nor doubles any.

        A summary goes too: the run is no longer finished.
        """
        for lines in self._line_files():
            records = list(read_lines(lines))
            kept = [record for record in records if record["step"] <= step]
            if not kept:
                lines.unlink()
            elif len(kept) < len(records):
                write_atomically(lines, "".join(json_text(record) + "\n" for record in kept))
        (self.path / SUMMARY).unlink(missing_ok=True)

    def missing_steps(self, last: int) -> str | None:
        """The optimizer steps up to `last` of which there is no line of metrics, in words; None if there is none."""
        return missing_steps((record["step"] for record in read_lines(self.path / METRICS)), last)

    def _line_files(self) -> list[Path]:
        samples = sorted((self.path / COMPLETIONS).glob("step_*.jsonl"))
        return [file for file in (self.path / METRICS, self.path / EVAL, *samples) if file.exists()]

    @staticmethod
    def _append(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
        """Opened per call: whatever replaced the file in between is what gets appended to."""
        # a lone surrogate in a decoded text becomes its escape: valid JSON, and no reason to stop
        with file.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            for record in records:
                stream.write(json_text(record) + "\n")
                stream.flush()


@dataclass(frozen=True)
class Run:
    """What a run directory holds; `metrics` and `evals` are in the order of their steps."""

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    completions: list[dict[str, Any]] = field(default_factory=list)

    def series(self, y: str, x: str = "step") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The metrics named `x` and `y` as two arrays, (N,) each, over the lines that hold both."""
        pairs = [(line[x], line[y]) for line in self.metrics if x in line and y in line]
        columns = np.array(pairs, dtype=np.float64).reshape(-1, 2)
        return columns[:, 0], columns[:, 1]

    @property
    def success_threshold(self) -> float:
        """The reward from which a completion of this run is a success."""
        return success_threshold_of(self.config, self.path / CONFIG)

    @property
    def judged_evals(self) -> list[dict[str, Any]]:
        """The evaluations in which at least one completion was judged, so that there is an accuracy."""
        return [line for line in self.evals if "eval/acc" in line]

    @property
    def missing_steps(self) -> str | None:
        """The optimizer steps of which `metrics.jsonl` has lost the line, in words; None if there is one for each."""
        lines = [line["step"] for line in self.metrics]
        return missing_steps(lines, max((*lines, *(line["step"] for line in self.evals)), default=0))

    def evaluation_at(self, step: int | None) -> dict[str, Any] | None:
        """The evaluation of a step, if it was evaluated."""
        return next((line for line in self.evals if line["step"] == step), None)


def success_threshold_of(config: Mapping[str, Any], file: Path | None) -> float:
    """The reward from which a completion is a success in the run of a configuration, which `file` holds.

    Raises:
        ValueError: the configuration says something that is no number.
    """
    name = "window_success_threshold"
    value = config.get(name, FULL_REWARD)
    if not is_finite_number(value):
        raise ValueError(f"{file}: {name} = {shortened(value)} is no number; correct it there, or remove the file")
    return float(value)


def answers_of(line: Mapping[str, Any]) -> str:
    """What an evaluation's accuracy rests on: "64 problems", or "16 problems, 64 answers" where each has several."""
    answers = int(line["eval/n"])
    problems = int(line.get("eval/problems", answers))  # records of older versions count answers alone
    asked = counted(problems, "problem")
    return asked if problems == answers else f"{asked}, {counted(answers, 'answer')}"


def counted(number: int, noun: str) -> str:
    """A number of things in words, such as "1 problem" or "2,048 problems"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read a run directory, finished or not.

    Raises:
        ValueError: if the folder is no run directory, or a file in it does not follow the schema.
    """
    folder = Path(path)
    own = (folder / CONFIG).is_file()
    config = read_mapping(folder / CONFIG) if own else read_gathered(folder, gathered.CONFIG)
    if config is None and (folder / METRICS).is_file():
        raise ValueError(
            f"{folder} has no {CONFIG}; with a trainer of your own, call tinyzero_trl.start_run before you train"
        )
    if config is None and has_not_begun(folder):
        raise ValueError(f"{folder} is a run that has not begun: it has no {CONFIG} yet; leave it out")
    if config is None:
        raise ValueError(f"{folder} is no run directory: it has no {CONFIG}; give the output_dir of a training run")
    samples = sorted((folder / COMPLETIONS).glob("step_*.jsonl"))
    evals = read_figures(folder / EVAL)  # first: a run that goes on writes them last
    return Run(
        path=folder,
        config=config,
        environment=read_object(folder / ENVIRONMENT) or read_gathered(folder, gathered.ENVIRONMENT) or {},
        summary=read_object(folder / SUMMARY),
        metrics=read_figures(folder / METRICS),
        evals=evals,
        completions=[sample for file in samples for sample in _read_samples(file)],
    )


def name_of_folder(path: str | os.PathLike[str]) -> str:
    """What a run without a recipe is called: by its folder, without a seed, so that repetitions have one name."""
    folder = Path(path).absolute()
    return re.sub(r"[-_.]?seed[-_.]?[0-9]+$", "", folder.name) or folder.parent.name


def has_not_begun(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is that of a run whose records are not there yet: it is in use, or a grid has tried to begin it.

    One that failed at its start stays so.
    """
    folder = Path(path)
    begun = (folder / CONFIG).exists() or (folder / METRICS).exists() or gathered_file(folder).exists()
    return not begun and any((folder / name).exists() for name in (LOCK, ARGUMENTS))


def is_finished(path: str | os.PathLike[str]) -> bool:
    """Whether a run directory holds a complete summary."""
    try:
        return read_object(Path(path) / SUMMARY) is not None
    except ValueError:
        return False


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MOST_CHARACTERS:
        return f"{value[:MOST_CHARACTERS]}\n[{len(value) - MOST_CHARACTERS} characters left out]"
    return value


def _read_samples(file: Path) -> Iterator[dict[str, Any]]:
    for number, sample in enumerate(read_lines(file), start=1):
        reward = sample.get("reward")  # None where the completion was not judged
        if reward is not None and not is_finite_number(reward):
            raise ValueError(f"{file}, line {number}: 'reward' is {shortened(reward)}, no finite number; correct it")
        yield sample
