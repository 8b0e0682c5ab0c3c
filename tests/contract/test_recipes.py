"""Every shipped recipe and launch file parses, and says what the documentation says it does."""

import math
import re
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from tinyzero_trl.commands.ablation.checks import faults_of
from tinyzero_trl.commands.ablation.grid import read_grid
from tinyzero_trl.models.toy.curricula import DEMO, LENGTHS, SMALL, TINY, Curriculum
from tinyzero_trl.tasks.config import task_config
from tinyzero_trl.training.recipe.parser import parse_recipe
from tinyzero_trl.windows import registry

ROOT = Path(__file__).parents[2]
GRIDS = sorted((ROOT / "recipes").glob("ablation*.yaml"))
RECIPES = sorted(set((ROOT / "recipes").glob("*.yaml")) - set(GRIDS))
LAUNCHES = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
PROMPT_TOKENS = 256
FOUR_GPUS = ("countdown_adaptive", "countdown_full", "countdown_vanilla", "countdown_phased", "countdown_cosine")


def load(name: str) -> dict:
    return yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text())


def parse(recipe: Path):
    # Transformers refuses bf16 on a machine without a GPU unless it is told that the CPU is meant.
    return parse_recipe(["--config", str(recipe), "--use_cpu", "true"])


def test_the_documented_recipes_are_the_shipped_ones() -> None:
    assert {recipe.stem for recipe in RECIPES} == {
        *FOUR_GPUS,
        "countdown_tiny",
        "lengths_tiny",
        "countdown_small_single_gpu",
        "countdown_0.5b_single_gpu",
        "countdown_3b_base",
        "countdown_3b_instruct",
        "multiply_tiny",
        "smollm2_cpu",
        "multiply_adaptive",
    }


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_parses_and_its_values_agree(recipe: Path) -> None:
    task, training, model = parse(recipe)
    assert task.recipe == recipe.stem
    assert training.output_dir == f"runs/{recipe.stem}"
    assert training.generation_batch_size % training.num_generations == 0
    window = training.window_config()
    assert 1 <= window.min <= window.largest <= training.max_completion_length
    for _, phase in getattr(window, "phases", ()):
        assert window.min <= phase <= window.largest
    assert model.model_name_or_path
    assert training.eval_strategy == "steps", "summary.json needs accuracy before and after"
    assert training.logging_steps == 1


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.stem)
def test_every_run_of_a_grid_parses(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_POLICIES", dict(registry._POLICIES))  # a grid may name a policy of benchmarks/
    runs = read_grid(grid)
    assert len({run.label for run in runs}) == len(runs) > 1
    assert faults_of(runs) == []


@pytest.mark.parametrize(
    "recipe",
    [path for path in RECIPES if not re.search("tiny|small|cpu", path.stem)],
    ids=lambda path: path.stem,
)
def test_a_recipe_for_gpus_uses_the_published_values(recipe: Path) -> None:
    _, training, model = parse(recipe)
    assert (training.learning_rate, training.beta, training.temperature) == (1e-6, 1e-3, 1.0)
    one_gpu = "single_gpu" in recipe.stem  # float32 weights, of which DeepSpeed would keep a copy
    memory_share = 0.3 if one_gpu else 0.4
    assert (training.engine, training.vllm_mode) == ("auto", "colocate")
    assert training.vllm_gpu_memory_utilization == memory_share
    assert training.bf16 and training.gradient_checkpointing
    assert model.dtype == ("float32" if one_gpu else "bfloat16")
    assert PROMPT_TOKENS + training.max_completion_length <= training.vllm_max_model_length
    assert training.max_tokens_per_micro_batch >= PROMPT_TOKENS + training.max_completion_length


@pytest.mark.parametrize("name", FOUR_GPUS)
def test_four_gpus_roll_out_256_prompts_a_step(name: str) -> None:
    _, training, _ = parse(ROOT / "recipes" / f"{name}.yaml")
    assert training.world_size == 1, "this arithmetic assumes that the test runs as one process"
    assert 4 * training.generation_batch_size == 256 * training.num_generations
    assert training.max_completion_length == 4096


@pytest.mark.parametrize("name", FOUR_GPUS[1:])
def test_the_baselines_differ_from_the_adaptive_recipe_in_the_window_alone(name: str) -> None:
    adaptive, baseline = load("countdown_adaptive"), load(name)
    different = {field for field in adaptive.keys() | baseline.keys() if adaptive.get(field) != baseline.get(field)}
    assert "output_dir" in different and "window_strategy" in different
    assert {field for field in different if not field.startswith("window_")} == {"output_dir"}


def test_the_windows_of_the_baselines() -> None:
    windows = {name: parse(ROOT / "recipes" / f"{name}.yaml")[1].window_config() for name in FOUR_GPUS}
    assert (windows["countdown_full"].strategy, windows["countdown_full"].largest) == ("fixed", 4096)
    assert (windows["countdown_vanilla"].strategy, windows["countdown_vanilla"].largest) == ("fixed", 1024)
    assert (windows["countdown_cosine"].strategy, windows["countdown_cosine"].largest) == ("cosine", 4096)
    assert windows["countdown_cosine"].total_steps == load("countdown_cosine")["max_steps"]
    assert windows["countdown_phased"].phases[-1][1] == 4096
    assert windows["countdown_phased"].phases[-1][0] < load("countdown_phased")["max_steps"]
    assert windows["countdown_adaptive"].strategy == "signal"


def test_the_documented_ways_of_launching_are_the_shipped_ones() -> None:
    names = {launch.stem for launch in LAUNCHES}
    assert names == {"cpu", "single_gpu", "ddp", "zero1", "zero2", "zero3", "fsdp2", "multi_node_zero3"}


@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda launch: launch.stem)
def test_accelerate_takes_a_launch_file_for_what_it_says(launch: Path) -> None:
    config = load_config_from_file(str(launch))
    kind = config.distributed_type.value
    expected = {"cpu": "NO", "single_gpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(launch.stem, "DEEPSPEED")
    assert kind == expected
    # With "NO" (and with MULTI_CPU) accelerate starts one process, whatever num_processes says.
    assert (config.num_processes > 1) == (kind != "NO")
    assert config.use_cpu == (launch.stem == "cpu")
    if kind == "DEEPSPEED":
        assert f"zero{config.deepspeed_config['zero_stage']}" in launch.stem
        # Accumulation and clipping come from the recipe alone: two sources could disagree.
        assert not {"gradient_accumulation_steps", "gradient_clipping"} & config.deepspeed_config.keys()
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2
        # TRL hands the reference model's weights to no rank that has not loaded them.
        assert config.fsdp_config["fsdp_cpu_ram_efficient_loading"] is False
    if "multi_node" in launch.stem:
        assert config.num_machines > 1 and config.num_processes % config.num_machines == 0


@pytest.mark.parametrize(
    ("curriculum", "place", "name"),
    [
        (DEMO, 0, "countdown_tiny"),
        (TINY, 1, "multiply_tiny"),
        (SMALL, 0, "countdown_small_single_gpu"),
        (LENGTHS, 0, "lengths_tiny"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_recipe_draws_from_the_split_that_its_warm_started_model_never_saw(
    curriculum: Curriculum, place: int, name: str
) -> None:
    made_for = curriculum.tasks[place]
    task, training, _ = parse(ROOT / "recipes" / f"{name}.yaml")
    given = {
        key: list(value) if isinstance(value, tuple) else value for key, value in made_for.generator_options.items()
    }
    made_of = task_config(task=made_for.name, **given).task_options()
    assert (task.task, task.test_size) == (made_for.name, made_for.test_size), "test examples come first"
    assert task.train_size == made_for.train_size or curriculum is LENGTHS, "there, problems come several times"
    assert task.task_options() == made_of
    assert task.problem_seed == 0
    assert math.isclose(sum(each.share for each in curriculum.tasks), 1.0)
    assert training.max_completion_length < curriculum.max_positions
