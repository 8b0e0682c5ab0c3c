"""Checkpoint + examples -> scores: one evaluation from its settings to its two files."""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedTokenizerBase

from tinyzero_trl.evaluation.rows import Row, WorkFile, is_correct, summarise, write_rows
from tinyzero_trl.evaluation.settings import EvaluationSettings, PreparedExamples, identify, prepare_examples, resolve
from tinyzero_trl.evaluation.trained_by import TrainedBy, find_run
from tinyzero_trl.generation.completions import as_turns, batched, complete
from tinyzero_trl.generation.engine import ANSWER_END, Engine, EngineSetup, Sampling, derive_seed
from tinyzero_trl.generation.registry import make_engine
from tinyzero_trl.generation.sampling import RECIPE_FIELDS, end_token_ids, padding_token_id
from tinyzero_trl.messages import printable, shortened
from tinyzero_trl.metrics import as_label
from tinyzero_trl.models.loading import (
    check_model,
    dtype_name,
    load_generation_config,
    load_model_config,
    load_tokenizer,
)
from tinyzero_trl.models.names import resolve_model
from tinyzero_trl.runs.earlier import move_aside
from tinyzero_trl.runs.files import write_atomically
from tinyzero_trl.runs.json_lines import read_object
from tinyzero_trl.runs.records import counted
from tinyzero_trl.tasks.datasets import scored, to_columns
from tinyzero_trl.tasks.rewards import completion_text
from tinyzero_trl.windows.outcomes import as_reward

logger = logging.getLogger(__name__)

RESULT = "eval.json"
GENERATIONS = "generations.parquet"
WORK = "generations.partial.jsonl"

Sample = tuple[int, int]
"""Indices of a problem and of one of its samples."""


def evaluate(settings: EvaluationSettings, out: Path) -> dict[str, Any]:
    """Evaluate, write `eval.json` and `generations.parquet` to `out`, and return what `eval.json` holds.

    The same settings give the same two files, also when the evaluation was interrupted: called again, it goes
    on with what `generations.partial.jsonl` does not hold yet. What lies in `out` of an evaluation with other settings
    is moved aside. Shows a progress bar on terminals.

    Raises:
        ValueError: a model or problems that cannot be read, no room for prompt and completion in the model's
            positions, or an unfinished evaluation with other settings in `out`.
        OSError: if `out` cannot be written.
    """
    model_path = resolve_model(settings.model)
    model_config, tokenizer = load_model_config(model_path), load_tokenizer(model_path)
    run = find_run(model_path)
    settings, notes = resolve(settings, run)
    notes += run.notes_on_precision(dtype_name())
    prepared = prepare_examples(settings, run, model_config, tokenizer)
    check_model(model_path, model_config, tokenizer)
    sampling = _sampling(settings, run, model_path, tokenizer)
    identity = identify(settings, prepared, model_path, model_config) | {
        "stop_strings": sampling.stop_strings,
        "end_token_ids": sampling.end_token_ids,
    }
    identity = json.loads(json.dumps(identity))  # as it is read again
    out.mkdir(parents=True, exist_ok=True)
    work = WorkFile(out / WORK, identity)
    _set_other_evaluation_aside(out, identity)
    samples = _by_prompt_length(prepared, settings.n)
    if pending := samples[len(work.rows) :]:
        setup = EngineSetup(
            tokenizer,
            model_path,
            batch_size=settings.batch_size,
            max_sequence_length=prepared.longest_prompt_tokens + prepared.max_completion_length,
        )
        engine = make_engine(identity["engine"], setup)
        with _progress_bar(len(samples), prepared.success_threshold) as advance:
            advance(work.rows)
            for batch in batched(pending, engine.rows_per_call):
                rows = _answer(engine, prepared, batch, settings, sampling)
                work.append(rows)
                advance(rows)
    figures = summarise(work.rows, prepared.success_threshold)
    result = {"settings": identity, "notes": [*notes, *prepared.notes], **figures}
    write_rows(out / GENERATIONS, work.rows)
    write_atomically(out / RESULT, json.dumps(result, indent=2) + "\n")
    work.remove()
    return result


def _set_other_evaluation_aside(out: Path, identity: Mapping[str, Any]) -> None:
    """Results in the folder that were measured with other settings are moved to `_earlier/1`, `_earlier/2`, ..."""
    found = read_object(out / RESULT)
    if found is None or found.get("settings") == identity:
        return
    aside = move_aside(out, (RESULT, GENERATIONS))
    logger.warning(f"out: an evaluation with other settings was in {out}; it lies in {aside} now")


def default_out(model: str, data: str) -> Path:
    """Where an evaluation goes that was given no folder: named after the ends of its model and its data."""
    parts = [*Path(model).parts[-2:], *Path(data).parts[-2:]]
    return Path("evaluations") / re.sub(r"[^\w.-]+", "", "-".join(parts))


def _by_prompt_length(prepared: PreparedExamples, n: int) -> list[Sample]:
    """All samples, prompts of a length together: little is padded, and vLLM reuses a problem's prefix."""
    samples = [(problem, sample) for problem in range(len(prepared.examples)) for sample in range(n)]
    return sorted(samples, key=lambda sample: len(prepared.prompt_ids[sample[0]]))


def _sampling(
    settings: EvaluationSettings, run: TrainedBy, model_path: str, tokenizer: PreTrainedTokenizerBase
) -> Sampling:
    """How completions are sampled; the seeds follow for each batch."""
    ends = end_token_ids(tokenizer, load_generation_config(model_path))
    texts, tokens = run.stops()
    stops = (*texts, *((ANSWER_END,) if settings.stop_at_answer else ()))
    return Sampling(
        **{name: getattr(settings, name) for name in RECIPE_FIELDS},
        end_token_ids=tuple(dict.fromkeys((*ends, *tokens))),
        pad_token_id=padding_token_id(tokenizer, ends),
        stop_strings=tuple(dict.fromkeys(stops)),
    )


def _answer(
    engine: Engine,
    prepared: PreparedExamples,
    batch: Sequence[Sample],
    settings: EvaluationSettings,
    sampling: Sampling,
) -> list[Row]:
    """Let the engine write the samples of a batch, and score them.

    Raises:
        ValueError: the batch does not fit into the device's memory.
    """
    task = prepared.task.make_task()
    columns = to_columns(task, [prepared.examples[index] for index, _ in batch])
    seeds = tuple(derive_seed(settings.seed, *sample) for sample in batch)
    prompt_ids = [prepared.prompt_ids[problem] for problem, _ in batch]
    try:
        completions = complete(engine, prompt_ids, replace(sampling, seeds=seeds), prepared.max_completion_length)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"batch_size: {len(batch)} rows do not fit the device's memory; run the same command "
            "with a smaller --batch-size, it goes on where this one stopped"
        ) from error
    answers = [completion.text for completion in completions]
    if prepared.is_chat:
        turns = as_turns(engine.setup.tokenizer, prompt_ids, [list(each.token_ids) for each in completions])
        answers = [completion_text([turn]) for turn in turns]
    rows = []
    for place, ((index, sample), completion) in enumerate(zip(batch, completions, strict=True)):
        example = prepared.examples[index]
        try:
            score = scored(task, answers[place], example)
        except Exception as error:
            raise RuntimeError(f"task: {task.name} did not score the completion {shortened(answers[place])}") from error
        rows.append(
            {
                "prompt": prepared.texts[index],
                "completion": completion.text,
                **{name: values[place] for name, values in columns.items()},
                "reward": as_reward(score.reward),
                "reason": score.reason,
                "length": completion.length_tokens,
                "truncated": completion.truncated,
                "difficulty": as_label(task.difficulty(example)),
                "problem_index": index,
                "sample_index": sample,
                "prompt_length": len(prepared.prompt_ids[index]),
            }
        )
    return rows


@contextmanager
def _progress_bar(total: int, success_threshold: float) -> Iterator[Callable[[Sequence[Row]], None]]:
    """A bar with the running accuracy on standard error, where that is a terminal; yields what moves it."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("accuracy    -", total=total)

        done = correct = 0

        def advance(rows: Sequence[Row]) -> None:
            nonlocal done, correct
            done += len(rows)
            correct += sum(is_correct(row, success_threshold) for row in rows)
            if done:
                progress.update(bar, completed=done, description=f"accuracy {correct / done:6.1%}")

        yield advance


def format_result(result: dict[str, Any]) -> str:
    """The figures of `eval.json` for people, a line each."""
    lines = []
    if "acc" in result:
        lines = [_accuracy_line("accuracy", result), f"{'mean reward':<16}{result['reward']:.4f}"]
    if unjudged := result.get("unjudged"):
        lines.append(f"{'not judged':<16}{unjudged:,} of {counted(result['generations'], 'answer')}")
    labels = {f"  difficulty {level}": figures for level, figures in result["difficulty"].items()}
    width = max(map(len, labels), default=0) + 1
    lines += [_accuracy_line(label, figures, width) for label, figures in labels.items()]
    lines += [f"{f'pass@{k}':<16}{value:7.2%}" for k, value in result.get("pass_at_k", {}).items()]
    lines.append(f"{'truncated':<16}{result['truncated_frac']:7.2%}")
    tokens = result["tokens"]
    lines.append(
        f"{'tokens':<16}{tokens['response_total']:,} written ({result['mean_length']:.1f} per completion), "
        f"{tokens['prompt_total']:,} read"
    )
    lines += [f"{'note':<16}{note}" for note in result.get("notes", ())]
    lines.append(f"{'reasons':<16}" + ", ".join(f"{reason} {count}" for reason, count in result["reasons"].items()))
    return "\n".join(map(printable, lines))


def _accuracy_line(label: str, figures: dict[str, Any], width: int = 0) -> str:
    interval, asked = f"[{figures['acc_low']:.2%}, {figures['acc_high']:.2%}]", counted(figures["problems"], "problem")
    return f"{label:<{max(width, 16)}}{figures['acc']:7.2%}  95 % {interval}, {asked}"
