"""Arithmetic as tasks: examples with numbers and a target, and TinyZero's columns in parquet files."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tinyzero_trl.tasks import prompts
from tinyzero_trl.tasks.arithmetic.problem import Problem
from tinyzero_trl.tasks.task import Example, Score, Task

if TYPE_CHECKING:
    import pyarrow


class ArithmeticTask(Task):
    """A task about a `Problem`; a subclass names the functions of its module."""

    columns: ClassVar[Mapping[str, type]] = {"numbers": list, "target": int}

    @staticmethod
    @abstractmethod
    def to_problem(numbers: object, target: object) -> Problem:
        """Untrusted values as a problem, or ValueError."""

    @staticmethod
    @abstractmethod
    def render_prompt(problem: Problem, template: str) -> str | list[prompts.Message]:
        """The prompt of a problem."""

    @staticmethod
    @abstractmethod
    def difficulty_of(problem: Problem) -> int:
        """The label of a problem."""

    @staticmethod
    @abstractmethod
    def generate_problems(*arguments: Any, **options: Any) -> list[Problem]:
        """Different problems: the module's `generate`."""

    @staticmethod
    @abstractmethod
    def score_answer(completion: str, numbers: Sequence[int], target: int) -> Score:
        """Score a completion."""

    def score(self, completion: str, example: Example) -> Score:
        """Score a completion against the example's numbers and target."""
        return self.score_answer(completion, example["numbers"], example["target"])

    def prompt(self, example: Example, template: str) -> str | list[prompts.Message]:
        """The prompt of the example's problem."""
        return self.render_prompt(Problem.of(example), template)

    def difficulty(self, example: Example) -> int:
        """The label of the example's problem."""
        return self.difficulty_of(Problem.of(example))

    def key(self, example: Example) -> Hashable:
        """The numbers in any order, and the target."""
        return Problem.of(example).key

    def source_columns(self, present: Iterable[str]) -> list[str]:
        """The target, and the numbers: called `nums` in TinyZero's files, `numbers` in others."""
        present = set(present)
        numbers = next((name for name in ("nums", "numbers") if name in present), None)
        if numbers is None or "target" not in present:
            raise ValueError(f"needs the columns target and nums (or numbers); has {sorted(present)}")
        return [numbers, "target"]

    def read(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """One untrusted row as an example."""
        numbers = row["nums"] if "nums" in row else row.get("numbers")
        return self.to_problem(numbers, row.get("target")).example

    def generate(
        self,
        count: int,
        *,
        seed: int,
        exclude: Collection[Hashable] = (),
        progress: Callable[[int], object] | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Different examples: those of the module's `generate`."""
        chosen = vars(self.with_options(options).settings)
        problems = self.generate_problems(count, seed=seed, exclude=exclude, progress=progress, **chosen)
        return [problem.example for problem in problems]

    def parquet_row(self, example: Example, *, template: str, split: str, index: int) -> dict[str, Any]:
        """TinyZero's columns, and the difficulty."""
        prompt = self.prompt(example, template)
        truth = {"target": example["target"], "numbers": example["numbers"]}
        return {
            "target": example["target"],
            "nums": example["numbers"],
            "data_source": self.name,
            "prompt": [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt,
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": truth},
            "extra_info": {"split": split, "index": index},
            "difficulty": self.difficulty(example),
        }

    def parquet_schema(self) -> "pyarrow.Schema":
        """The types of these columns."""
        import pyarrow

        integer, text = pyarrow.int64(), pyarrow.string()
        integers = pyarrow.list_(integer)
        ground_truth = pyarrow.struct({"target": integer, "numbers": integers})
        return pyarrow.schema(
            {
                "target": integer,
                "nums": integers,
                "data_source": text,
                "prompt": pyarrow.list_(pyarrow.struct({"role": text, "content": text})),
                "ability": text,
                "reward_model": pyarrow.struct({"style": text, "ground_truth": ground_truth}),
                "extra_info": pyarrow.struct({"split": text, "index": integer}),
                "difficulty": integer,
            }
        )


def check_parts(field: str, parts: Sequence[int], least: int, most: int, noun: str = "counts") -> None:
    """Raise ValueError unless `equal_shares` can take `parts`: one or more, all different, each from least to most."""
    if not parts or len(set(parts)) != len(parts) or not all(least <= part <= most for part in parts):
        raise ValueError(f"{field}: {list(parts)} must be one or more different {noun} from {least} to {most}")


def equal_shares(count: int, parts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Every part with its share of `count`; the first ones take the remainder."""
    each, remainder = divmod(count, len(parts))
    return ((part, each + (place < remainder)) for place, part in enumerate(parts))
