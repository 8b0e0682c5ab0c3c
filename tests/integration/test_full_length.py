"""Where something else than the window decides how long completions are, only the full length is a window."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl.trainer import grpo_trainer

from tests.support.tiny_models import build_model, build_tokenizer
from tinyzero_trl import AdaptiveGRPOConfig, AdaptiveGRPOTrainer, WindowConfig
from tinyzero_trl.windows import make_policy

LONGEST = 24
PROMPTS = ["1 2 3", "4 4 4 4", "9 8", "7"]
CHATS = [[{"role": "user", "content": text}] for text in PROMPTS]
TEMPLATE = (  # one that can show calls of tools, which TRL asks of it
    "{% for m in messages %}{{ m['content'] or '' }} {% for c in m.tool_calls or [] %}"
    "{{ c.function.name }} {{ c.function.arguments }}{% endfor %}{% endfor %}"
)
CALL = {"type": "function", "function": {"name": "ask", "arguments": {}}}


def at_the_limit(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    ids = [[5] * LONGEST for _ in prompts]
    logprobs = [[-1.0] * LONGEST for _ in prompts]
    return {"prompt_ids": trainer.processing_class(prompts).input_ids, "completion_ids": ids, "logprobs": logprobs}


def ask() -> str:
    """Ask for a digit."""
    return "9"


class Environment:
    def reset(self, **columns: Any) -> None:
        pass

    def ask(self) -> str:
        """Ask for a digit."""
        return "9"


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], **window: Any) -> list[int]:
    """Lengths of the completions of one rollout; each of their parts calls the tool, where there is one."""
    tokenizer, lengths = build_tokenizer(), []
    tokenizer.chat_template = TEMPLATE
    tokenizer.response_template = {"defaults": {"role": "assistant"}, "start_anchor": "", "fields": {}}
    part = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    monkeypatch.setattr(grpo_trainer, "parse_response", lambda *_, **__: dict(part))

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [float(len(ids) % 2) for ids in completion_ids]

    settings: dict[str, Any] = {"max_completion_length": LONGEST, "num_generations": 4, "max_steps": 1}
    settings |= {"per_device_train_batch_size": 16, "max_tool_calling_iterations": 1, "save_strategy": "no"}
    settings |= {"gradient_checkpointing": False, "bf16": False, "use_cpu": True, "report_to": "none"}
    AdaptiveGRPOTrainer(
        build_model(tokenizer),
        reward,
        AdaptiveGRPOConfig(str(folder), **settings | window),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS if "rollout_func" in given else CHATS}),
        processing_class=tokenizer,
        **given,
    ).train()
    return lengths


@pytest.mark.parametrize(
    "window",
    [
        {"window_strategy": "signal", "window_initial": 8, "window_min": 4},
        {"window_strategy": "signal", "window_initial": LONGEST},
        {"window_strategy": "fixed", "window_max": 8},
        {"window_strategy": "group"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"rollout_func": at_the_limit}, "it decides by itself how long completions are"),
        ({"tools": [ask]}, "a completion has several parts, and the window limits each alone"),
        ({"environment_factory": Environment}, "a completion has several parts, and the window limits each alone"),
    ],
    ids=["rollout_func", "tools", "environment_factory"],
)
def test_a_window_that_would_not_hold_is_refused(
    given: dict[str, Any], reason: str, window: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [name] = given
    strategy = window["window_strategy"]
    with pytest.raises(ValueError, match=rf"^{name}: {reason}, so that window_strategy '{strategy}' does not hold; le"):
        trained(tmp_path, monkeypatch, given, **window)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("window", [{"window_strategy": "fixed"}, {"window_strategy": "signal", "window_min": LONGEST}])
def test_the_full_length_holds(window: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained(tmp_path / "func", monkeypatch, {"rollout_func": at_the_limit}, **window) == [LONGEST] * 16
    assert max(trained(tmp_path / "tools", monkeypatch, {"tools": [ask]}, **window)) == LONGEST


def test_a_policy_assigned_between_rollouts_is_asked_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def assigns(prompts: list[Any], trainer: Any) -> Any:
        trainer.window_callback.policy = make_policy(WindowConfig(strategy="fixed", max=8))
        return at_the_limit(prompts, trainer)

    with pytest.raises(ValueError, match=r"^rollout_func: it decides by itself how long .* 'fixed' does not hold; le"):
        trained(tmp_path, monkeypatch, {"rollout_func": assigns}, window_strategy="fixed", max_steps=2)
