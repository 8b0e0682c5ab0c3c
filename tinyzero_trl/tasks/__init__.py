"""What is learned: examples, their prompts and their scores, for built-in tasks and for a user's own.

Importing it needs the standard library alone.
"""

from tinyzero_trl.tasks.arithmetic import addition, countdown, multiplication
from tinyzero_trl.tasks.arithmetic.problem import Problem
from tinyzero_trl.tasks.registry import get_task, register_task, task_names
from tinyzero_trl.tasks.task import Example, Score, Task

__all__ = [
    "Example",
    "Problem",
    "Score",
    "Task",
    "addition",
    "countdown",
    "get_task",
    "multiplication",
    "register_task",
    "task_names",
]
