"""What is learned: examples, their prompts and their scores, for built-in tasks and for a user's own.

Importing it needs PyYAML and the standard library alone.
"""

from tinyzero_trl.tasks.arithmetic import addition, countdown, counting, multiplication
from tinyzero_trl.tasks.arithmetic.problem import Problem
from tinyzero_trl.tasks.gsm8k import Gsm8k
from tinyzero_trl.tasks.prompt_answer import PromptAnswer
from tinyzero_trl.tasks.reasoning_gym import ReasoningGymTask
from tinyzero_trl.tasks.registry import generating_forms, get_task, register_task
from tinyzero_trl.tasks.task import Example, Score, Task

__all__ = [
    "Example",
    "Gsm8k",
    "Problem",
    "PromptAnswer",
    "ReasoningGymTask",
    "Score",
    "Task",
    "addition",
    "countdown",
    "counting",
    "generating_forms",
    "get_task",
    "multiplication",
    "register_task",
]
