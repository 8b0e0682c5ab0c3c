"""What can be compared: the held-out evaluations of two run groups, their devices, and the seeds of one group."""

import json
from collections.abc import Iterable
from itertools import combinations, product

from tinyzero_trl.messages import shortened
from tinyzero_trl.runs.records import EXAMPLES, HELD_OUT_PROMPTS, TASK_OPTIONS, Run
from tinyzero_trl.runs.report.run_groups import RunGroup

# Options of tasks for which older records hold None, the task's default, which newer ones write out.
_OLD_OPTIONS = ("operands", "digits", "min_number", "max_number", "min_target", "max_target")

# What decides which held-out problems are asked, and how: accuracies under different ones are not compared. Options of
# the built-in tasks are here because older records do not name their task's own.
EVALUATION_FIELDS = (
    *("task", "dataset", "dataset_name", "test_size", "eval_size", "problem_seed"),
    *_OLD_OPTIONS,
    *("steps", "largest_start", "largest_step", "max_summand", "answer_match", "instruction", "partial_scores"),
    *("prompt_template", "chat_template_kwargs", "max_completion_length", "stop_at_answer"),
    *("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "generation_kwargs"),
    *("num_generations_eval", "window_success_threshold"),
)


def evaluation_differences(group: RunGroup, baseline: RunGroup) -> list[str]:
    """In what the held-out evaluations of two groups differ, such as "test_size 512, not 1024"; [] if in nothing.

    What only one of them recorded is not known to differ. The prompts themselves speak for data that has changed in its
    place, between the groups or between the seeds of one; where a field has been named already, they differ for that
    reason.
    """
    noted = [each.first.environment.get(TASK_OPTIONS) for each in (group, baseline)]
    options = [name for names in noted if isinstance(names, list) for name in names if isinstance(name, str)]
    asked = dict.fromkeys((*EVALUATION_FIELDS, *options))
    asked.pop("difficulty_label", None)  # by which figures are split
    recorded = [name for name in asked if name in group.config and name in baseline.config]
    pairs = [(name, group.config[name], baseline.config[name]) for name in recorded]
    pairs = [pair for pair in pairs if pair[0] not in _OLD_OPTIONS or None not in pair]
    found = [f"{name} {shortened(ours)}, not {shortened(other)}" for name, ours, other in pairs if ours != other]
    return found or list(filter(None, [_difference_of_problems(group, baseline)]))


def _difference_of_problems(group: RunGroup, baseline: RunGroup) -> str:
    """The first difference in what the runs recorded about the problems themselves; empty if there is none."""
    for each, whose in ((group, "its"), (baseline, "the baseline's")):
        if any(_other_problems(*pair) for pair in combinations(each.runs.values(), 2)):
            return f"{whose} seeds were asked other held-out problems than one another"
    pairs = product(group.runs.values(), baseline.runs.values())
    return next(filter(None, (_other_problems(*pair) for pair in pairs)), "")


def _other_problems(run: Run, other: Run) -> str:
    """What is known of two runs' held-out problems that says they differ; empty if nothing does."""
    prompts = [each.environment.get(HELD_OUT_PROMPTS) for each in (run, other)]
    if None not in prompts and prompts[0] == prompts[1]:
        return _other_answers(run, other)
    counts = _problems(run), _problems(other)
    if None not in counts and counts[0] != counts[1]:
        return f"held-out problems {counts[0]}, not {counts[1]}"
    return "" if None in prompts else "other held-out prompts than those of the baseline"


def _problems(run: Run) -> int | None:
    """How many held-out problems a run has, where its evaluations say so: the most that one of them has judged."""
    counts = [line.get("eval/problems", line.get("eval/n")) for line in run.evals]
    return max((int(each) for each in counts if each is not None), default=None)


def _other_answers(run: Run, other: Run) -> str:
    """As `_other_problems`, where the prompts are the same: by the digests of whole rows, which hold right answers.

    Rows hold the label of the difficulty too, so that those labelled by something else are not compared.
    """
    if run.config.get("difficulty_label") != other.config.get("difficulty_label"):
        return ""
    noted = [each.environment.get(EXAMPLES) for each in (run, other)]
    rows = [each.get("held_out") if isinstance(each, dict) else None for each in noted]
    if None in rows or rows[0] == rows[1]:
        return ""
    return "other right answers (or other columns beside the held-out prompts) than those of the baseline"


def same_devices(group: RunGroup, baseline: RunGroup) -> bool:
    """Whether nothing says that runs of the two had other devices, or another number of processes."""
    runs = [*group.runs.values(), *baseline.runs.values()]
    return all(len(_recorded(runs, name)) < 2 for name in ("devices", "processes"))


def differ_in(group: RunGroup, name: str) -> bool:
    """Whether an entry of `environment.json` differs between the seeds of a group; of `examples`, those trained on."""
    return len(_recorded(group.runs.values(), name)) > 1


def _recorded(runs: Iterable[Run], name: str) -> set[str]:
    """The values of an entry of `environment.json`, where it is recorded."""
    entries = [run.environment.get(name) for run in runs]
    if name == EXAMPLES:
        entries = [entry.get("train") if isinstance(entry, dict) else None for entry in entries]
    return {json.dumps(entry, sort_keys=True) for entry in entries if entry is not None}
