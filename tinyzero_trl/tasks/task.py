"""What a task is: examples with a prompt each, and a score for what a model writes after it.

A task of your own is one class in one file; docs/tasks.md shows one. Name it with `--task package.module:Class`.
"""

import copy
import json
import random
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from tinyzero_trl.tasks import prompts
from tinyzero_trl.tasks.slowness import SlownessWarning

if TYPE_CHECKING:
    import pyarrow

Example = Mapping[str, Any]
"""One example of a task: column names to plain JSON values."""

ANSWER_OPEN = "<answer>"
ANSWER_CLOSE = "</answer>"

_FRUITLESS_DRAWS = 5000

KINDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}


class Score(NamedTuple):
    """What a completion earns: a reward (1.0 is a success), and a short code that says why."""

    reward: float
    reason: str


CORRECT = Score(1.0, "correct")


def wrong(reason: str) -> Score:
    """A score without reward."""
    return Score(0.0, reason)


def extract_answer(completion: str) -> str | None:
    """The text inside the last closed answer tag of the completion alone, stripped of whitespace.

    Text after the tag and tags left open are ignored; a tag opened twice counts from its last opening.
    None if no tag was closed. Takes time linear in the completion.
    """
    last_close = completion.rfind(ANSWER_CLOSE)
    if last_close < 0:
        return None
    opened = completion.rfind(ANSWER_OPEN, 0, last_close)
    if opened < 0:
        return None
    start = opened + len(ANSWER_OPEN)
    return completion[start : completion.find(ANSWER_CLOSE, start)].strip()


@dataclass
class NoOptions:
    """The options of a task whose generator has none."""


class Task(ABC):
    """The base class of every task.

    A subclass declares `columns` and writes `question` and `score`. With `draw` it also generates examples, so that
    `dataset: generate` and `tinyzero-trl data` work. Everything else has a default that may be overridden. Instances
    hold no state but the options that they were made with.

    Attributes:
        name: by which the task was asked for, set by `get_task`.
        given: the options that the run gives, set by `get_task`; `settings` has the others too.
        columns: the columns of an example, by name, with the type of their values: str, int, float, bool, list (of
            one type), or dict. `read` and `draw` return exactly these.
        templates: the prompt templates that the task offers, the default one first.
        options: a dataclass with the options of the task, of its generator above all. Each needs a default, and may
            have a help text: `field(default=5, metadata={"help": "letters of a word"})`. Recipes and command lines
            take them as fields.
    """

    name: str = ""
    given: Mapping[str, Any] = MappingProxyType({})
    columns: ClassVar[Mapping[str, type]] = {}
    templates: ClassVar[tuple[str, ...]] = prompts.TEMPLATES
    options: ClassVar[type[Any]] = NoOptions

    @cached_property
    def settings(self) -> Any:
        """The options of the run, defaults filled in: an instance of `options`.

        Raises:
            ValueError: as `check_options`.
        """
        return self.check_options(self.given)

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """The same task with further options, which win over those that it has."""
        if not options:
            return self
        task = copy.copy(self)
        task.__dict__.pop("settings", None)
        task.given = {**self.given, **options}
        return task

    @abstractmethod
    def score(self, completion: str, example: Example) -> Score:
        """Score what a model wrote after the example's prompt.

        A reward of 1.0 is a success for window policies, metrics and evaluation. The completion is untrusted text:
        never evaluate it, and never raise because of it.
        """

    def question(self, example: Example) -> str:
        """The question of an example as plain text, without any frame; says in which form to answer."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a method question(example), or prompt(example, template)"
        )

    def prompt(self, example: Example, template: str) -> str | list[prompts.Message]:
        """The whole prompt: text as the model reads it, or chat messages for the model's chat template.

        Raises:
            ValueError: the task does not offer the template, or its question is no text.
        """
        question = self.question(example)
        if not isinstance(question, str):
            raise ValueError(f"task: {self.name} asks {reprlib.repr(question)}; let question return a text")
        return prompts.render(template, (question,), ())

    def difficulty(self, example: Example) -> int | str:
        """A label by which accuracy is broken down: a positive number or a text, of one type; 0 for none."""
        return 0

    def key(self, example: Example) -> Hashable:
        """What makes two examples the same one: by default their prompt. Keeps held-out examples out of training."""
        return json.dumps(self.prompt(example, self.templates[0]))

    # --- examples from data ---------------------------------------------------------------------------------------

    def source_columns(self, present: Iterable[str]) -> list[str]:
        """Those columns of a file that `read` needs.

        Raises:
            ValueError: one is missing.
        """
        present = set(present)
        if missing := [name for name in self.columns if name not in present]:
            raise ValueError(f"needs the column {missing[0]}; has {sorted(present)}")
        return list(self.columns)

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """One untrusted row of data as an example.

        Raises:
            ValueError: a value is missing or of another type than `columns` says; names the column.
        """
        for name, kind in self.columns.items():
            if kind is dict and isinstance(value := row.get(name), str):
                row = {**row, name: _parse_mapping(value)}
            if type(value := row.get(name)) is not kind and not (kind is float and type(value) is int):
                raise ValueError(f"{name}: {reprlib.repr(value)} must be {KINDS[kind]}")
        return {name: row[name] for name in self.columns}

    # --- examples from a generator --------------------------------------------------------------------------------

    def draw(self, generator: random.Random, options: Any) -> dict[str, Any]:
        """One random example; `options` is an instance of the task's `options`."""
        raise NotImplementedError

    def drawn(self, generator: random.Random, options: Any) -> Iterator[dict[str, Any]]:
        """Random examples without end, which may repeat."""
        while True:
            yield self.draw(generator, options)

    def generate(
        self,
        count: int,
        *,
        seed: int,
        exclude: Collection[Hashable] = (),
        progress: Callable[[int], object] | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Different examples, the same for the same arguments; by default from `draw`.

        Args:
            count: examples wanted, at least 0.
            seed: of this call's own generator, at least 0.
            exclude: keys of examples that must not occur.
            progress: called now and then with the number of examples found since the last call.
            options: of the task's `options`; they win over those that the task was made with.

        Raises:
            ValueError: the task generates no examples, an option is unknown or out of bounds, or fewer examples exist
                than are wanted.
        """
        if not self.can_generate:
            raise ValueError(
                f"dataset: 'generate', but the task {self.name} brings no generator; give a file, a folder or a Hub id"
            )
        check_count_and_seed(count, seed)
        task = self.with_options(options)
        known, fruitless = set(exclude), 0
        found: list[dict[str, Any]] = []
        slowness = SlownessWarning(self.name, count)
        examples = task.drawn(random.Random(seed), task.settings)
        while len(found) < count:
            example = next(examples)
            if not found and not fruitless:
                self._check_drawn(example)
                prompts.check_prompt(self.name, self.prompt(example, self.templates[0]))
                prompts.check_key(self.name, task.key(example))
            slowness.after(len(found))
            if (key := task.key(example)) in known:
                fruitless += 1
                if fruitless == _FRUITLESS_DRAWS:
                    raise ValueError(
                        f"count: {count} different examples of the task {self.name} are wanted, but only {len(found)} "
                        "could be found; ask for fewer, or change the task's options"
                    )
                continue
            known.add(key)
            found.append(example)
            fruitless = 0
            if progress:
                progress(1)
        return found

    def _check_drawn(self, example: Any) -> None:
        """Raise ValueError unless what `draw` has returned is an example."""
        if not isinstance(example, Mapping) or example.keys() != self.columns.keys():
            raise ValueError(
                f"task: {self.name} draws {reprlib.repr(example)}; return a mapping with the columns "
                f"{', '.join(self.columns)}"
            )
        try:
            Task.read(self, example)
        except ValueError as error:
            raise ValueError(f"task: {self.name} draws a value of another type: {error}") from None

    @property
    def can_generate(self) -> bool:
        """Whether the task brings a generator of examples."""
        own, base = type(self), Task
        return own.draw is not base.draw or own.drawn is not base.drawn or own.generate is not base.generate

    def check_options(self, options: Mapping[str, Any]) -> Any:
        """The options as an instance of the task's `options`, defaults filled in.

        Raises:
            ValueError: an option that the task does not have, or a value that its dataclass refuses.
        """
        known = {each.name for each in fields(self.options)}
        for name, value in options.items():
            if name not in known:
                raise ValueError(f"{name}: {value!r} has no effect on the task {self.name}; remove it")
        return self.options(**options)

    # --- examples to files ----------------------------------------------------------------------------------------

    def parquet_row(self, example: Example, *, template: str, split: str, index: int) -> dict[str, Any]:
        """The columns that `tinyzero-trl data` writes of an example: by default its own, mappings as JSON."""
        return {
            name: json.dumps(example[name]) if kind is dict else example[name] for name, kind in self.columns.items()
        }

    def parquet_schema(self) -> "pyarrow.Schema | None":
        """The types of these columns; None to find them in the rows."""
        return None


def _parse_mapping(text: str) -> Any:
    """The mapping that parquet files and data sets hold as JSON, or the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def check_count_and_seed(count: int, seed: int) -> None:
    """Raise ValueError if either is negative: `random.Random` would take -1 for 1."""
    if count < 0:
        raise ValueError(f"count: {count} is negative; ask for 0 problems or more")
    if seed < 0:
        raise ValueError(f"seed: {seed} is negative; use 0 or more")
