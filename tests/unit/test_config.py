"""A recipe is judged before anything is loaded: existence, type, range, contradictions; by name and with a remedy."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from tinyzero_trl.generation import registry
from tinyzero_trl.tasks.config import task_config
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.recipe.parser import parse_recipe
from tinyzero_trl.training.run import resolved_config
from tinyzero_trl.windows import find_policy, make_policy, strategies
from tinyzero_trl.windows.fields import of_trainer
from tinyzero_trl.windows.schedules import FixedConfig

BASE = {
    "model_name_or_path": "embedded",
    "output_dir": "runs/test",
    "max_completion_length": 512,
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
}

Parse = Callable[..., Any]
"""Writes a recipe and reads it with options of a command line: task, training and model configuration."""


@pytest.fixture
def parse(tmp_path: Path) -> Parse:
    def parse(*arguments: str, without: tuple[str, ...] = (), **recipe: Any) -> Any:
        file = tmp_path / "recipe.yaml"
        values = {name: value for name, value in {**BASE, **recipe}.items() if name not in without}
        file.write_text(yaml.safe_dump(values))
        return parse_recipe(["--config", str(file), *arguments])

    return parse


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        # existence
        ({"num_generation": 8}, r"num_generation: unknown field in the recipe \(value 8\); did you mean num_generat"),
        ({"window_sizes": 8}, r"window_sizes: unknown field in the recipe \(value 8\); did you mean window_"),
        ({"qqqq": None}, r"qqqq: unknown field in the recipe \(value None\); remove it"),
        # types that YAML gets wrong
        ({"num_generations": 8.7}, r"num_generations: 8.7 is not a whole number; change it in the recipe"),
        ({"num_generations": "8.7"}, r"num_generations: invalid int value: '8.7'"),
        ({"num_generations": True}, r"num_generations: True is not a whole number"),
        ({"num_generations": [8]}, r"num_generations: \[8\] is a list; change it in the recipe"),
        ({"num_generations": None}, r"num_generations: empty in the recipe; give a value, or remove the line for 8"),
        ({"seed": 1.5}, r"seed: 1.5 is not a whole number"),
        ({"save_total_limit": 2.5}, r"save_total_limit: 2.5 is not a whole number"),
        ({"window_max": 99.5}, r"window_max: 99.5 is not a whole number"),
        ({"learning_rate": True}, r"learning_rate: True is not a number"),
        ({"learning_rate": "fast"}, r"learning_rate: invalid float value: 'fast'"),
        ({"use_cpu": 1}, r"use_cpu: 1 is neither true nor false; change it in the recipe"),
        ({"bf16": "perhaps"}, r"bf16: Truthy value expected: got perhaps"),
        ({"operands": [3, "four"]}, r"operands: 'four' is not a whole number"),
        ({"operands": 3}, r"operands: 3 is no list; change it in the recipe"),
        ({"window_growth_needs_pressure": 3}, r"window_growth_needs_pressure: 3 is neither true nor false"),
        ({"save_strategy": False}, r"save_strategy: False is unknown; choose one of .*YAML reads a bare no as false"),
        ({"eval_strategy": "stepz"}, r"eval_strategy: 'stepz' is unknown; choose one of no, steps, epoch"),
        ({"dtype": "float33"}, r"dtype: 'float33' is unknown; choose one of auto, bfloat16, float16, float32"),
        ({"model_name_or_path": 5}, r"model_name_or_path: 5 is no text; put it in quotes, or change it"),
        ({"output_dir": 5}, r"output_dir: 5 is no text; put it in quotes, or change it"),
        # ranges
        ({"temperature": 0.0}, r"temperature: 0.0 gives every completion of a group the same text; set it above 0"),
        ({"temperature": float("nan")}, r"temperature: nan is no finite number of 0 or more"),
        ({"learning_rate": float("inf")}, r"learning_rate: inf is no finite number of 0 or more"),
        ({"beta": -0.1}, r"beta: -0.1 is no finite number of 0 or more"),
        ({"num_generations": 1}, r"num_generations: 1 is no whole number of 2 or more"),
        ({"max_completion_length": 0}, r"max_completion_length: 0 is no whole number of 1 or more"),
        ({"gradient_accumulation_steps": 0}, r"gradient_accumulation_steps: 0 is no whole number of 1 or more"),
        ({"per_device_train_batch_size": 0}, r"per_device_train_batch_size: 0 is no whole number of 1 or more"),
        ({"max_tokens_per_micro_batch": 0}, r"max_tokens_per_micro_batch: 0 is no whole number of 1 or more"),
        ({"num_iterations": 0}, r"num_iterations: 0 is no whole number of 1 or more"),
        ({"seed": -1}, r"seed: -1 is no whole number of 0 or more"),
        ({"seed": 2**32}, r"seed: 4294967296 is above 4294967295, the largest seed of NumPy; lower it"),
        ({"data_seed": 2**70}, r"data_seed: 1180591620717411303424 is above 4294967295, the largest seed of NumPy"),
        ({"max_steps": 0}, r"max_steps: 0 is below 1; set it to 1 or more"),
        ({"max_skipped_steps": -1}, r"max_skipped_steps: -1 is no whole number of 0 or more"),
        (
            {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 3, "num_iterations": 2}
            | {"metric_for_best_model": "eval/acc"},
            r"eval_steps: 3 is not a multiple of the 2 optimizer steps per rollout, between which nothing is saved",
        ),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3, "save_steps": 3}
            | {"num_iterations": 2, "metric_for_best_model": "eval/acc"},
            r"eval_steps: 3 is not a multiple of the 2 optimizer steps per rollout, between which nothing is saved",
        ),
        ({"save_strategy": "best"}, r"save_strategy: 'best' needs a figure to choose by; give metric_for_best_model"),
        ({"metric_for_best_model": "acc"}, r"metric_for_best_model: 'acc' is no figure .*; choose one of eval/acc, "),
        ({"metric_for_best_model": "eval/accc"}, r"metric_for_best_model: 'eval/accc' is no figure of an evaluation"),
        (
            {"stop_at_answer": True, "use_transformers_continuous_batching": True},
            r"stop_at_answer: true has no effect on use_transformers_continuous_batching",
        ),
        ({"save_steps": -5}, r"save_steps: -5 is not above 0; change it, or set save_strategy to 'no'"),
        ({"loss_type": "dapoo"}, r"loss_type: 'dapoo' is unknown; choose one of grpo"),
        ({"vllm_mode": "colocated"}, r"vllm_mode: 'colocated' is unknown; choose one of colocate, server"),
        ({"report_to": "wandbb"}, r"report_to: 'wandbb' cannot be used .wandbb is not supported, only .*wandb"),
        ({"window_strategy": "success", "window_epsilon": 2}, r"window_epsilon: 2 is above 1; set it to 1 or less"),
        ({"window_min": 0}, r"window_min: 0 is below 1; set it to 1 or more"),
        ({"window_max": 0}, r"window_max: 0 is not a positive whole number"),
        ({"window_strategy": "sucess"}, r"window_strategy: 'sucess' is unknown; choose one of fixed"),
        ({"task": "chess"}, r"task: 'chess' is unknown; use one of addition, countdown"),
        ({"prompt_template": "bas"}, r"prompt_template: 'bas' is unknown; choose one of base"),
        ({"reward_shaping": "cos"}, r"reward_shaping: 'cos' is unknown; choose one of none, cosine"),
        ({"eval_size": 0}, r"eval_size: 0 is below 1; set it to 1 or more"),
        # contradictions
        ({"window_max": 1024}, r"window_max: 1024 exceeds max_completion_length 512; lower it, or raise"),
        ({"window_min": 600}, r"window_min: 600 exceeds max_completion_length 512; lower window_min or raise max_comp"),
        ({"window_min": 99, "window_max": 64}, r"window_min: 99 exceeds window_max 64; lower window_min or raise"),
        ({"window_min": 64, "window_initial": 32}, r"window_initial: 32 is outside \[window_min 64, max_compl"),
        ({"window_strategy": "phased"}, r"window_phases: empty; strategy phased needs pairs"),
        ({"window_strategy": "phased", "window_phases": "0:100"}, r"window_phases: '0:100' is not JSON; write pairs"),
        ({"window_strategy": "phased", "window_phases": [[0, 513]]}, r"window_phases: window 513 at step 0 is outside"),
        ({"window_strategy": "cosine"}, r"window_total_steps: not set; strategy cosine needs"),
        (
            {"gradient_accumulation_steps": 2, "steps_per_generation": 3},
            r"steps_per_generation: 3 is not a multiple of gradient_accumulation_steps 2, .*; give a multiple",
        ),
        (
            {"per_device_train_batch_size": 6},
            r"num_generations: 4 does not divide the 6 completions of a rollout .*; give a divisor such as 3",
        ),
        ({"digits": [2]}, r"digits: \[2\] has no effect on the task countdown; remove it"),
        ({"engine": "transformers", "use_vllm": True}, r"engine: 'transformers' contradicts use_vllm true"),
        ({"engine": "sglang"}, r"engine: 'sglang' is unknown; use one of auto, transformers, vllm"),
        ({"stop_at_answer": True, "mask_truncated_completions": True}, r"stop_at_answer: true ends completions"),
        (
            {"generation_kwargs": {"stop_strings": "."}, "mask_truncated_completions": True},
            r"generation_kwargs: stop_strings end .*, which mask_truncated_completions does not know; remove one",
        ),
        (
            {"generation_kwargs": {"stop_strings": ["."]}, "use_transformers_continuous_batching": True},
            r"generation_kwargs: stop_strings end .*, which use_transformers_continuous_batching does not know",
        ),
        (
            {"use_vllm": True, "generation_kwargs": {"stop": ["."]}, "mask_truncated_completions": True},
            r"generation_kwargs: stop ends .*, which mask_truncated_completions does not know; remove one",
        ),
        (
            {"use_vllm": True, "generation_kwargs": {"stop_token_ids": [3]}, "mask_truncated_completions": True},
            r"generation_kwargs: stop_token_ids end .*, which mask_truncated_completions does not know; remove one",
        ),
        (
            {"use_vllm": True, "generation_kwargs": {"stop_token_ids": ["3"]}},
            r"generation_kwargs: stop_token_ids \['3'\] is no list of token ids; correct it",
        ),
        ({"generation_kwargs": {"stop_strings": [3]}}, r"generation_kwargs: stop_strings \[3\] is no text or list"),
        ({"restore_callback_states_from_checkpoint": True}, r"restore_callback_states_from_checkpoint: true would"),
        ({"top_entropy_quantile": -0.5}, r"top_entropy_quantile: -0\.5 is no finite number of 0 to 1; change it"),
        ({"delta": 0.5}, r"delta: 0\.5 is no finite number of 1 or more; change it"),
        ({"ref_model_mixup_alpha": 2.0}, r"ref_model_mixup_alpha: 2\.0 is no finite number of 0 to 1; change it"),
        ({"ref_model_sync_steps": 0}, r"ref_model_sync_steps: 0 is no whole number of 1 or more; change it"),
        ({"sapo_temperature_pos": 0.0}, r"sapo_temperature_pos: 0 is too low, advantages are divided by it"),
        ({"multi_objective_aggregation": "x"}, r"multi_objective_aggregation: 'x' is unknown; choose one of sum_then"),
        ({"neftune_noise_alpha": 5.0}, r"neftune_noise_alpha: 5\.0 scales its noise by the width of a batch"),
        (
            {
                **{"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "eval/acc"},
                **{"greater_is_better": True, "eval_strategy": "steps"},
            },
            r"lr_scheduler_kwargs: reduce_lr_on_plateau lowers the learning rate when .*acc rises",
        ),
    ],
    ids=str,
)
def test_a_bad_value_stops_with_field_value_and_remedy(parse: Parse, recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as refusal:
        parse(**recipe)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--num_generation", "8"],
            r"num_generation: unknown field on the command line; did you mean num_generations\?",
        ),
        (["--qqqq=3"], r"qqqq: unknown field on the command line; remove it"),
        (["--num_generations", "8.7"], r"num_generations: invalid int value: '8.7'"),
        (["--window_max"], r"window_max: expected one argument"),
        (
            ["--learning_rate", "-1e-3"],
            r"learning_rate: expected one argument; give .*--field=-1e-3 if it begins with a",
        ),
        (["--operands", "3,4"], r"operands: invalid int value: '3,4'; give a whole number for each entry, with spaces"),
        (["--config", ""], r"config: names no recipe; give --config PATH.yaml"),
        (["--window_phases", "0:9", "--window_strategy", "phased"], r"window_phases: '0:9' is not JSON"),
    ],
    ids=str,
)
def test_the_command_line_is_judged_as_the_recipe_is(parse: Parse, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        parse(*arguments)


def test_a_recipe_without_a_model_is_refused(parse: Parse) -> None:
    with pytest.raises(ValueError, match=r"^model_name_or_path: None names no model; give --config RECIPE"):
        parse(without=("model_name_or_path",))


@pytest.mark.parametrize("content", ["learning_rate: [1", "- a\n- list\n", None])
def test_an_unreadable_recipe_is_refused_in_one_line(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "recipe.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError) as refusal:
        parse_recipe(["--config", str(file)])
    assert str(file) in str(refusal.value) or "recipe.yaml" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_command_line_wins_over_the_recipe(parse: Parse) -> None:
    task, training, model = parse(
        "--learning_rate", "3e-4", "--window_min", "40", "--operands", "3", "4", learning_rate=1e-6
    )
    assert (training.learning_rate, training.window_min, task.operands) == (3e-4, 40, [3, 4])
    assert (task.recipe, model.model_name_or_path) == ("recipe", "embedded")


def test_types_of_fields_are_looked_up_once_for_a_recipe(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked up for each field, they were half of the time that a recipe takes to read."""
    looked_up: list[Any] = []

    def noted(kind: Any) -> dict[str, Any]:
        looked_up.append(kind)
        return get_type_hints(kind)

    monkeypatch.setattr("tinyzero_trl.training.recipe.parser.get_type_hints", noted)
    parse()
    assert len(looked_up) == len(set(looked_up)) > 0


def test_the_recipe_may_be_given_with_an_equals_sign(parse: Parse, tmp_path: Path) -> None:
    parse()
    task, training, _ = parse_recipe([f"--config={tmp_path / 'recipe.yaml'}"])
    assert (task.recipe, training.max_completion_length) == ("recipe", 512)


def test_numbers_that_yaml_reads_as_text_are_converted(parse: Parse) -> None:
    assert parse(learning_rate="1e-6")[1].learning_rate == 1e-6  # YAML 1.1 knows 1.0e-6 alone as a number


@pytest.mark.parametrize("given", ["yaml", "json in yaml", "command line"])
def test_phases_can_be_written_in_yaml_and_as_json(parse: Parse, given: str) -> None:
    phases, text = [[0, 100], [10, 200]], "[[0, 100], [10, 200]]"
    if given == "command line":
        _, training, _ = parse("--window_phases", text, window_strategy="phased")
    else:
        _, training, _ = parse(window_phases=phases if given == "yaml" else text, window_strategy="phased")
    assert training.window_config().phases == ((0, 100), (10, 200))


@pytest.mark.parametrize(("longest", "initial"), [(4096, 1024), (512, 512), (1024, 1024)])
def test_the_first_window_defaults_to_the_forks_or_to_the_maximum(parse: Parse, longest: int, initial: int) -> None:
    _, training, _ = parse(max_completion_length=longest)
    window = training.window_config()
    assert (window.initial, window.largest) == (initial, longest)
    assert make_policy(window).window == initial


def test_a_lower_largest_window_leaves_the_length_of_evaluation_alone(parse: Parse) -> None:
    _, training, _ = parse(window_max=100)
    assert (training.window_config().largest, training.window_config().initial) == (100, 100)
    assert training.max_completion_length == 512


def test_every_field_of_a_window_policy_has_a_typed_twin() -> None:
    """None stands for the policy's own default, whatever the type; a command line spells pairs as text."""
    kinds, flat = get_type_hints(AdaptiveGRPOConfig), {each.name: each for each in fields(AdaptiveGRPOConfig)}
    ours = [find_policy(name).config_class for name in strategies()]
    for config_class in ours:
        for each in fields(config_class):
            if each.name in ("strategy", "phases") or each.metadata.get("of_trainer"):
                continue
            assert kinds[f"window_{each.name}"] == get_type_hints(config_class)[each.name] | None, each.name
            twin = flat[f"window_{each.name}"]
            assert twin.default is None
            assert each.metadata["help"] in twin.metadata["help"]
    prefixed = {name.removeprefix("window_") for name in flat if name.startswith("window_")}
    asked = {each.name for kind in ours for each in fields(kind) if each.metadata.get("of_trainer")}
    every = {each.name for kind in ours for each in fields(kind)}
    assert {"loss_type", "num_generations"} < asked and prefixed == every - asked | {"options"}


def test_a_window_policy_takes_what_the_training_says_of_its_loss(parse: Parse) -> None:
    training = parse(window_strategy="group", loss_type="grpo", scale_rewards=False)[1]
    windows = vars(training.window_config())
    assert (windows["loss_type"], windows["scale_rewards"]) == ("grpo", "none")
    assert not {"window_loss_type", "window_scale_rewards"} & set(resolved_config(None, training, None))
    with pytest.raises(ValueError, match=r"^window_loss_type: 'grpo' follows loss_type of the training; remove"):
        parse(window_strategy="group", window_options={"loss_type": "grpo"})
    with pytest.raises(ValueError, match=r"^window_loss_type: unknown field in the recipe"):
        parse(window_strategy="group", window_loss_type="grpo")


def test_a_number_that_the_training_says_stays_a_number(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 and 0 are equal to true and false, which `scale_rewards` has words for."""

    @dataclass(frozen=True, kw_only=True)
    class Asking(FixedConfig):
        num_iterations: int = of_trainer(3, "optimizer steps on a rollout")
        beta: float = of_trainer(0.5, "weight of the divergence")

    monkeypatch.setattr(find_policy("fixed"), "config_class", Asking)
    window: Any = parse(window_strategy="fixed", num_iterations=1, beta=0.0)[1].window_config()
    assert (window.num_iterations, window.beta) == (1, 0.0) and type(window.num_iterations) is int


def test_groups_that_are_too_large_to_decide_on_are_refused_before_a_rollout(parse: Parse) -> None:
    large = {"window_strategy": "group", "num_generations": 64, "per_device_train_batch_size": 64}
    with pytest.raises(
        ValueError, match=r"^window_group_rule: 'value' decides on groups of at most 32 .* there are 64"
    ):
        parse(**large)
    assert parse(**large, window_group_rule="plain")[1].window_config().strategy == "group"
    assert vars(parse(**large | {"num_generations": 32})[1].window_config())["num_generations"] == 32


def test_every_default_nobody_set_fits_a_short_maximum(parse: Parse) -> None:
    for strategy in ("signal", "success", "fixed"):
        window = parse(max_completion_length=8, window_strategy=strategy)[1].window_config()
        assert (window.min, window.initial, window.largest) == (8, 8, 8)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (
            {"window_mode": "ema"},
            r"window_mode: 'ema' has no effect on strategy signal, which does not read it \(success",
        ),
        ({"window_strategy": "fixed", "window_slack": 0.1}, r"window_slack: 0.1 has no effect on strategy fixed"),
        (
            {"window_options": {"headroom": 2}, "window_headroom": 2.0},
            r"window_options: headroom is also set by window_h",
        ),
        ({"window_options": {"patience": 2}}, r"window_patience: 2 is not a field of strategy signal; remove it"),
        ({"window_options": "{bad"}, r"window_options: '{bad' is not JSON; write a mapping"),
    ],
)
def test_a_field_that_the_window_policy_does_not_read_is_refused(
    parse: Parse, recipe: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        parse(**recipe)


def test_from_python_too_options_must_be_a_mapping() -> None:
    with pytest.raises(ValueError, match=r"^window_options: \[1\] is not a mapping; write \{name: value\}"):
        AdaptiveGRPOConfig("run", window_options="[1]")
    with pytest.raises(ValueError, match=r"^window_options: '\{bad' is not JSON; write a mapping such as"):
        AdaptiveGRPOConfig("run", window_options="{bad")


def test_a_strategy_on_the_command_line_replaces_the_recipes_with_its_fields(parse: Parse) -> None:
    """A recipe for `signal` runs with another strategy as it is; what is given beside that strategy is checked."""
    recipe = {"window_strategy": "signal", "window_headroom": 1.5, "window_growth_delta": 80, "window_initial": 99}
    success = parse("--window_strategy", "success", **recipe)[1].window_config()
    assert (success.strategy, success.growth_delta, success.initial) == ("success", 80, 99)
    fixed = parse("--window_strategy=fixed", **recipe)[1]
    assert (fixed.window_config().strategy, fixed.window_headroom) == ("fixed", None)
    with pytest.raises(ValueError, match=r"^window_headroom: 2.0 has no effect on strategy fixed"):
        parse("--window_strategy", "fixed", "--window_headroom", "2", **recipe)
    with pytest.raises(ValueError, match=r"^window_mode: 'ema' has no effect on strategy fixed"):
        parse("--window_strategy", "fixed", window_mode="ema", **recipe)


def test_the_help_of_every_field_of_ours_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_recipe(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for name in ("--window_strategy", "--resume", "--prompt_template", "--max_tokens_per_micro_batch"):
        assert name in shown


def test_the_folder_of_the_model_is_that_which_is_loaded(
    parse: Parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"^output_dir: .* is the folder of the model too"):
        parse(model_name_or_path="~/model", output_dir=str(tmp_path / "model"))
    assert parse(model_name_or_path="embedded", output_dir="embedded"), "a model of the package lies elsewhere"


def test_the_resolved_configuration_is_a_recipe_for_the_same_run(parse: Parse, tmp_path: Path) -> None:
    from tinyzero_trl.runs.records import RunRecords

    parsed = parse(
        window_strategy="phased", window_phases=[[0, 64]], operands=[3], warmup_steps=5, hub_token="hf_secret"
    )
    RunRecords(tmp_path / "run").write_config(resolved_config(*parsed))
    written = (tmp_path / "run" / "config.yaml").read_text()
    config = yaml.safe_load(written)
    assert "hf_secret" not in written
    assert (config["window_max"], config["window_initial"], config["window_phases"]) == (512, 512, [[0, 64]])
    assert (config["task"], config["operands"], config["recipe"]) == ("countdown", [3], "recipe")
    assert json.dumps(config), "plain values alone"


def test_task_options_are_those_of_the_task() -> None:
    options = {"operands": [3], "min_number": 1, "max_number": 12, "min_target": 10, "max_target": 100}
    assert task_config(operands=[3], max_number=12).task_options() == options
    assert task_config(task="multiplication", digits=[2]).task_options() == {"digits": [2]}
    with pytest.raises(ValueError, match=r"digits: .* has no effect on the task countdown; remove it"):
        task_config(digits=[2])


@pytest.mark.parametrize(
    ("installed", "cuda", "engine", "use_cpu", "use_vllm", "expected"),
    [
        (True, True, "auto", False, False, True),
        (True, False, "auto", False, False, False),
        (False, True, "auto", False, False, False),
        (True, True, "auto", True, False, False),
        (True, False, "vllm", True, False, True),
        (True, True, "transformers", False, False, False),
        (True, True, None, False, False, False),
        (False, False, None, False, True, True),
    ],
)
def test_the_engine_is_vllm_where_it_pays(
    parse: Parse,
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
    cuda: bool,
    engine: str | None,
    use_cpu: bool,
    use_vllm: bool,
    expected: bool,
) -> None:
    _, training, _ = parse()
    training.engine, training.use_cpu, training.use_vllm = engine, use_cpu, use_vllm
    monkeypatch.setattr(registry, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(registry, "_has_cuda", lambda: cuda)
    training._choose_engine()
    assert training.use_vllm is expected


def test_every_config_chooses_its_engine(parse: Parse) -> None:
    assert parse(engine="auto")[1].use_vllm is False


@pytest.mark.parametrize("supported", [True, False])
def test_half_precision_is_the_default_where_the_device_has_it(
    supported: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """TRL's own default asks a CPU for it too, which Transformers refuses."""
    monkeypatch.setattr("tinyzero_trl.training.config.is_torch_bf16_gpu_available", lambda: supported)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: supported)
    assert AdaptiveGRPOConfig(str(tmp_path)).bf16 is supported
    assert AdaptiveGRPOConfig(str(tmp_path), use_cpu=True, bf16=True).bf16 is True
