"""A data set of reasoning-gym as a task: its questions in our prompts, its scorer behind our checks."""

import json
import os
import random
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, ClassVar

from tinyzero_trl.messages import shortened, text_of
from tinyzero_trl.tasks.matching import EXACT, FORMS, NUMERIC, match, to_number
from tinyzero_trl.tasks.reasoning_gym import library
from tinyzero_trl.tasks.reasoning_gym.labels import difficulty_label
from tinyzero_trl.tasks.reasoning_gym.numbers import IS_RIGHT
from tinyzero_trl.tasks.reasoning_gym.options import CommonOptions, configuration, options_class
from tinyzero_trl.tasks.registry import Family, register_family
from tinyzero_trl.tasks.task import CORRECT, Example, Score, Task, extract_answer, wrong

SAFE, UNSAFE = "reasoning_gym", "reasoning_gym_unsafe"
"""The family of names, and the one by which a person allows scorers that evaluate text as Python."""

_LONGEST_ANSWER = 20_000  # characters; the longest right answers, boards of numbers, have a tenth of it
_REFUSED = {  # answers that no scorer sees: they would take time or memory without bound, or win without being right
    "coin_flip": re.compile(r"[eE][+-]?[\d_]{4}"),  # Fraction("1e999999999") writes the number out
    "complex_arithmetic": re.compile(r"nan", re.IGNORECASE),  # earns 1, by min(1.0, nan)
    "propositional_logic": re.compile(r".{500}", re.DOTALL),
    "rubiks_cube": re.compile(r"[0-9]{3}|.{1000}", re.DOTALL),  # R999999999 becomes so many moves
    "rush_hour": re.compile(r"[0-9]{3}"),
}
_CHUNK = 512  # examples that are drawn of one data set, before the next seed
_MOST_PARTIAL = 0.999  # of what is partly right, so that no sum of parts is a success
_NUMERIC = {"gsm_symbolic"}  # the library's scorer takes the first digits of a text, and leaves out a minus sign


class ReasoningGymTask(Task):
    """One data set; `task_class` makes a subclass for each."""

    columns: ClassVar[Mapping[str, type]] = {"question": str, "answer": str, "metadata": dict}
    dataset: ClassVar[str] = ""
    trusts_rows: ClassVar[bool] = False

    def question(self, example: Example) -> str:
        """The library's question, and where the answer is to stand."""
        return f"{example['question'].rstrip()}\n\n{FORMS[EXACT]}"

    def score(self, completion: str, example: Example) -> Score:
        """What the library's scorer gives the text between the answer tags: 1, or less for what is partly right.

        What is partly right earns 0 unless `partial_scores` is set, and is never a success by itself. Where the library
        gives 1 to wrong numbers, `numbers.py` must confirm it; those of `gsm_symbolic` are judged by `matching` alone.
        """
        answer = extract_answer(completion)
        if answer is None:
            return wrong("no-answer-tag")
        if len(answer) > _LONGEST_ANSWER:
            return wrong("too-long")
        if (refused := _REFUSED.get(self.dataset)) and refused.search(answer):
            return wrong("not-allowed")
        if self.dataset in _NUMERIC:
            return match(completion, example["answer"], NUMERIC)
        metadata = library.from_plain(example["metadata"])  # anew: scorers write into it
        judge, confirms = self._judge(metadata.pop("options", {})), IS_RIGHT.get(self.dataset)
        try:
            reward = float(judge.score_answer(answer, {**example, "metadata": metadata}))
            is_right = reward == 1 and (confirms is None or confirms(answer, example["answer"]))
        except Exception:  # scorers stumble over some texts, and no text may stop a run
            return wrong("scorer-failed")
        if is_right:
            return CORRECT
        if not 0 < reward < 1:  # an error in the library's arithmetic, where it is above 1
            return wrong("wrong-answer")
        return Score(min(reward, _MOST_PARTIAL) if self.settings.partial_scores else 0.0, "partial-score")

    def difficulty(self, example: Example) -> str:
        """By `difficulty_label`, or the first usable entry of the library's metadata."""
        return difficulty_label(library.from_plain(example["metadata"]), self.settings.difficulty_label)

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row that `tinyzero-trl data` wrote for this data set, or one with the library's own columns.

        Raises:
            ValueError: as `Task.read`; a row of another data set, or one whose text the scorer would evaluate.
        """
        if self.dataset in library.EVALUATES_ROWS and not self.trusts_rows:
            raise ValueError(
                f"task: the scorer of {self.dataset} hands the problem of a file to {_evaluator(self.dataset)}; if you "
                f"trust the file, name the task {UNSAFE}:{self.dataset}"
            )
        example = super().read({**row, "answer": "" if row.get("answer") is None else row["answer"]})
        source = example["metadata"].get("source_dataset", self.dataset)
        if source != self.dataset:
            raise ValueError(f"metadata: an example of reasoning-gym's {source!r}; train with task {SAFE}:{source}")
        if self.dataset in _NUMERIC and to_number(example["answer"]) is None:
            raise ValueError(f"answer: {shortened(example['answer'])} is no number; correct it, or remove the row")
        metadata = library.from_plain(example["metadata"])
        self._judge(metadata.get("options", {}) if isinstance(metadata, dict) else metadata)
        return example

    def _judge(self, options: Any) -> Any:
        """The data set that scores examples which were made with these options."""
        try:
            return library.scorer(self.dataset, json.dumps(options))
        except TypeError as error:
            raise ValueError(
                f"metadata: the options {shortened(options)} were not written by this program ({text_of(error)}); "
                "write the file anew with tinyzero-trl data"
            ) from None

    def drawn(self, generator: random.Random, options: Any) -> Iterator[dict[str, Any]]:
        """The entries of one small data set of the library after another.

        Raises:
            ValueError: the examples would be others in each process, or the library fails with the options.
        """
        if self.dataset in library.DEPENDS_ON_HASHES and os.environ.get("PYTHONHASHSEED") != "0":
            raise ValueError(
                f"task: reasoning-gym's {self.dataset} gives other examples in each process for the same seed; set the "
                "environment variable PYTHONHASHSEED=0, or write them to a file with tinyzero-trl data"
            )
        changed = configuration(self.dataset, options)
        self._judge(library.from_plain(library.to_plain(changed)))
        while True:
            entries = library.make(self.dataset, seed=generator.getrandbits(31), size=_CHUNK, **changed)
            for index in range(_CHUNK):
                try:
                    entry = entries[index]
                except Exception as error:  # some options are found wanting only now
                    raise library.refusal(self.dataset, changed, error) from None
                metadata = {**entry["metadata"], **({"options": changed} if changed else {})}
                yield {
                    "question": entry["question"],
                    "answer": entry["answer"] or "",  # none where several are right
                    "metadata": library.to_plain(metadata),
                }


def _evaluator(dataset: str) -> str:
    return (library.EVALUATES_COMPLETIONS | library.EVALUATES_ROWS)[dataset]


@lru_cache
def task_class(dataset: str, family: str = SAFE) -> type[Task]:
    """The task of a data set.

    Raises:
        ValueError: the library is not installed, has no such data set, or its scorer evaluates what models write and
            nobody has allowed it.
    """
    library.check_name(family, dataset)
    if family == SAFE and dataset in library.EVALUATES_COMPLETIONS:
        instead = "; our own task countdown does not" if dataset == "countdown" else ""
        raise ValueError(
            f"task: the scorer of '{family}:{dataset}' runs what a model wrote, by {_evaluator(dataset)}{instead}; "
            f"allow it on a machine that may be harmed, by the name {UNSAFE}:{dataset}"
        )
    options: type[CommonOptions] = options_class(dataset)
    members = {"dataset": dataset, "options": options, "trusts_rows": family == UNSAFE}
    return type("ReasoningGymTask", (ReasoningGymTask,), {**members, "__doc__": f"reasoning-gym's {dataset}."})


register_family(SAFE, Family(task_class))
register_family(UNSAFE, Family(lambda dataset: task_class(dataset, UNSAFE), runs_code=True))
