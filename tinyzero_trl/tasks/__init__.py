"""What is learned: verifiable arithmetic, as problems, prompts and verdicts. Standard library only."""

from types import ModuleType

from tinyzero_trl.tasks.arithmetic import countdown, multiplication
from tinyzero_trl.tasks.task import Problem, Verdict

__all__ = ["TASKS", "Problem", "Verdict", "countdown", "get_task", "multiplication"]

TASKS: dict[str, ModuleType] = {"countdown": countdown, "multiplication": multiplication}


def get_task(name: str) -> ModuleType:
    """The task's module: `generate`, `solve`, `score`, `extract_answer`, `render_prompt`, `difficulty`, ...

    Raises:
        ValueError: if there is no task of that name.
    """
    if name not in TASKS:
        raise ValueError(f"task: {name!r} is unknown; use one of {', '.join(TASKS)}")
    return TASKS[name]
