"""What a small model is trained on before any reinforcement learning: its size, its tasks and its training phases.

The embedded model is a Qwen2 of about one million parameters with few key-value heads, so that a laptop's CPU generates
thousands of tokens per second. The traces that it imitates search three numbers well, but after any line without
success they may give up. Of four numbers they make nothing, and often end in a loop. So the model does good and bad
things, as larger base models do. It can learn to go on searching where that succeeds. On problems that are out of its
reach it spends tokens to the limit, and no reward teaches it to stop. Its lengths have the heavy tail that rollouts of
real models have.

The impatient model has the shape of the embedded model and the same kind of traces: three times as many steps on
search, and a larger probability of giving up. So it can search three numbers, and does not show it: most of its
completions give up. What reinforcement learning has to teach it is to go on, which base models lack too before they
learn to check and to go back (Gandhi et al. 2025, https://arxiv.org/abs/2503.01307).

The demo's model is an impatient model that can search better. No trace of its first phase gives up. Its second phase is
longer. So it has more to gain from going on than the impatient model.

The small model, thirty times as large, is for one GPU: TinyZero's own numbers, 1 to 99, three and four of them. Both
can be searched to the end, four in about 500 tokens on average and 1,300 in one case in ten.

The model for prompts that need different lengths, of 0.8 million parameters, counts on. Every problem needs its own
length, and a quarter of them need more than fits. It may give up anywhere, and must unlearn that for short and for long
problems separately.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tinyzero_trl.models.toy.traces import countdown_trace, counting_trace, multiplication_trace
from tinyzero_trl.tasks import Problem
from tinyzero_trl.tasks.datasets import train_test_examples


@dataclass(frozen=True)
class TrainingPhase:
    """Optimizer steps of a curriculum's `batch_traces` each, and the settings of the trace generator.

    `decay` is the share of the steps over which the learning rate falls to zero. The two probabilities are those of
    `countdown_trace` and `counting_trace`; `operands` are the operand counts of the Countdown problems.
    """

    steps: int
    learning_rate: float
    decay: float
    give_up_probability: float
    loop_probability: float
    operands: tuple[int, ...] = ()


@dataclass(frozen=True)
class TraceTask:
    """The problems of one task that a model is made for: the recipes for it draw from the same split."""

    name: str
    share: float
    write_trace: Callable[..., str | None]
    train_size: int
    test_size: int
    generator_options: dict[str, Any]

    @cached_property
    def split(self) -> tuple[list[Problem], list[Problem]]:
        """Train and held-out problems, disjoint."""
        train, test = train_test_examples(
            self.name, train_size=self.train_size, test_size=self.test_size, seed=0, **self.generator_options
        )
        return [Problem.of(example) for example in train], [Problem.of(example) for example in test]

    def problems_of(self, phase: TrainingPhase) -> list[Problem]:
        """The training problems of a phase."""
        problems = self.split[0]
        if self.name == "countdown":
            return [problem for problem in problems if len(problem.numbers) in phase.operands]
        return problems


@dataclass(frozen=True)
class Curriculum:
    """The shape of a Qwen2, and its training phases.

    `longest_row` is the largest length of prompt and trace in tokens: longer traces are cut there, without an end.
    `max_completion_length` is that of the measurement after the last phase. Trained on a CPU, even where there is a
    GPU, a model comes out the same.
    """

    hidden_size: int
    layers: int
    attention_heads: int
    key_value_heads: int
    max_positions: int
    tasks: tuple[TraceTask, ...]
    phases: tuple[TrainingPhase, ...]
    batch_traces: int
    longest_row: int
    max_completion_length: int
    on_cpu: bool
    tokenizer_tasks: tuple[str, ...] = ("countdown", "multiplication")

    def shortened(self, steps: int) -> "Curriculum":
        """The same phases in about `steps` optimizer steps, each with its share of them.

        Raises:
            ValueError: not even one step for each phase.
        """
        count = len(self.phases)
        if steps < count:
            raise ValueError(
                f"steps: {steps} is below {count}, one for each training phase; give more, or leave it out"
            )
        total = sum(phase.steps for phase in self.phases)
        shortened = (replace(phase, steps=max(1, round(phase.steps * steps / total))) for phase in self.phases)
        return replace(self, phases=tuple(shortened))


# The first phase is arithmetic and search; in the second traces give up, and those of four numbers loop.
TINY = Curriculum(
    hidden_size=128,
    layers=4,
    attention_heads=4,
    key_value_heads=2,
    max_positions=2048,
    tasks=(
        TraceTask("countdown", 0.9, countdown_trace, 4400, 2048, {"operands": (3, 4), "max_number": 12}),
        TraceTask("multiplication", 0.1, multiplication_trace, 3000, 512, {"digits": (2,)}),
    ),
    phases=(
        TrainingPhase(
            steps=2000, learning_rate=2e-3, decay=0.2, give_up_probability=0.06, loop_probability=0, operands=(3,)
        ),
        TrainingPhase(
            steps=800, learning_rate=1e-3, decay=0.7, give_up_probability=0.2, loop_probability=0.3, operands=(3, 4)
        ),
    ),
    batch_traces=16,
    longest_row=528,
    max_completion_length=512,
    on_cpu=True,
)

IMPATIENT = replace(
    TINY,
    tasks=(replace(TINY.tasks[0], share=1.0),),
    phases=(
        TrainingPhase(
            steps=6000, learning_rate=2e-3, decay=0.2, give_up_probability=0.03, loop_probability=0, operands=(3,)
        ),
        TrainingPhase(
            steps=800, learning_rate=1e-3, decay=0.7, give_up_probability=0.35, loop_probability=0.3, operands=(3, 4)
        ),
    ),
    tokenizer_tasks=("countdown",),
)

DEMO = replace(
    IMPATIENT,
    phases=(
        replace(IMPATIENT.phases[0], give_up_probability=0),
        replace(IMPATIENT.phases[1], steps=2000),
    ),
)

SMALL = Curriculum(
    hidden_size=512,
    layers=8,
    attention_heads=8,
    key_value_heads=2,
    max_positions=4096,
    tasks=(TraceTask("countdown", 1.0, countdown_trace, 50_000, 1024, {"operands": (3, 4), "max_number": 99}),),
    phases=(
        TrainingPhase(
            steps=4000, learning_rate=1e-3, decay=0.2, give_up_probability=0.02, loop_probability=0, operands=(3, 4)
        ),
        TrainingPhase(
            steps=1000, learning_rate=5e-4, decay=0.7, give_up_probability=0.07, loop_probability=0.04, operands=(3, 4)
        ),
    ),
    batch_traces=64,
    longest_row=2064,
    max_completion_length=2048,
    on_cpu=False,
)

LENGTHS = Curriculum(
    hidden_size=128,
    layers=3,
    attention_heads=4,
    key_value_heads=2,
    max_positions=512,
    tasks=(
        TraceTask(
            name="counting",
            share=1.0,
            write_trace=counting_trace,
            train_size=640,
            test_size=640,
            generator_options={"steps": (1, 3, 5, 9, 16, 28, 32, 36), "largest_start": 100, "largest_step": 2},
        ),
    ),
    phases=(
        TrainingPhase(steps=1200, learning_rate=2e-3, decay=0.3, give_up_probability=0, loop_probability=0),
        TrainingPhase(steps=300, learning_rate=5e-4, decay=0.7, give_up_probability=0.2, loop_probability=0.2),
    ),
    batch_traces=32,
    longest_row=136,
    max_completion_length=120,
    on_cpu=True,
    tokenizer_tasks=("counting",),
)

CURRICULA = {"tiny": TINY, "impatient": IMPATIENT, "demo": DEMO, "small": SMALL, "lengths": LENGTHS}
_OF_SHIPPED = {
    "embedded": TINY,
    "embedded-impatient": IMPATIENT,
    "embedded-demo": DEMO,
    "embedded-lengths": LENGTHS,
}


def taught_problems(model: str, task: str) -> set[Hashable]:
    """Keys of the problems of a task that a shipped model has seen worked out; none of any other model.

    Args:
        model: the name of the model, such as `embedded`.
        task: the name of the task.
    """
    tasks = _OF_SHIPPED[model].tasks if model in _OF_SHIPPED else ()
    return {problem.key for each in tasks if each.name == task for problem in each.split[0]}
