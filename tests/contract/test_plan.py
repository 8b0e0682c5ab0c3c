"""Every shipped recipe gives a plan, on a configuration of its architecture that is made here."""

from pathlib import Path

import peft
import pytest
from transformers import LlamaConfig, MambaConfig, Qwen2Config

from tinyzero_trl.commands.main import main
from tinyzero_trl.commands.planning import Machines, plan_recipe
from tinyzero_trl.models.toy.curricula import SMALL
from tinyzero_trl.models.toy.tokenizer import build_tokenizer
from tinyzero_trl.models.toy.warmstart import build_model

ROOT = Path(__file__).parents[2]
RECIPES = sorted(set((ROOT / "recipes").glob("*.yaml")) - set((ROOT / "recipes").glob("ablation*.yaml")))
# hidden, intermediate, layers, heads, key-value heads, tied embeddings: as published; then the published count
QWEN = {
    "0.5": ((896, 4864, 24, 14, 2, True), 494_032_768),
    "1.5": ((1536, 8960, 28, 12, 2, False), 1_777_088_000),
    "3": ((2048, 11008, 36, 16, 2, True), 3_085_938_688),
}
PARAMETERS = {"lengths": 804_480, "tiny": 1_050_752, "small": 30_685_696, "smollm2": 134_515_008} | {
    name: count for name, (_, count) in QWEN.items()
}


def size_of(recipe: Path) -> str:
    for word, size in {
        "smollm2": "smollm2",
        "lengths": "lengths",
        "tiny": "tiny",
        "small": "small",
        "0.5b": "0.5",
        "3b": "3",
        "multiply": "3",
    }.items():
        if word in recipe.stem:
            return size
    return "1.5"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    for name, ((hidden, intermediate, layers, heads, kv_heads, tied), _) in QWEN.items():
        Qwen2Config(
            vocab_size=151_936,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            tie_word_embeddings=tied,
        ).save_pretrained(folder / name)
    LlamaConfig(  # SmolLM2-135M, as published
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ).save_pretrained(folder / "smollm2")
    build_model(build_tokenizer(), SMALL, seed=0).config.save_pretrained(folder / "small")
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_every_recipe_fits_where_it_is_made_for(recipe: Path, models: dict[str, str]) -> None:
    size = size_of(recipe)
    given = ["--model_name_or_path", models[size]] if size in models else []
    machines = {
        "lengths": (1, 8),
        "tiny": (1, 8),
        "smollm2": (1, 8),
        "small": (1, 24),
        "0.5": (1, 24),
        "1.5": (4, 80),
        "3": (4, 80),
    }
    gpus, gib = machines[size]
    launch = {"1.5": "zero2", "3": "zero3"}.get(size, "single_gpu")
    plan = plan_recipe(["--config", str(recipe), *given], Machines(gpus, gpu_memory_gib=gib, launch=launch))
    assert plan.fits, (plan.complaints, [memory.remedies for memory in plan.memory])
    assert plan.warnings == []
    assert plan.shape.parameters == PARAMETERS[size]
    if size in ("1.5", "3"):
        assert (plan.batch.prompts, plan.batch.completions) == (256, 1024)
    assert plan.batch.first_window <= plan.batch.last_window


def test_the_command_prints_the_plan(models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--config", str(ROOT / "recipes" / "countdown_3b_base.yaml"), "--gpus", "16", "--nodes", "2"]
    arguments += ["--gpu-memory-gib", "24", "--model_name_or_path", models["3"], "--gradient_accumulation_steps", "8"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for part in ("3,085,938,688 parameters", "16 GPUs of 24 GiB on 2 machines", "256 x 4 = 1024", "zero3", "peak"):
        assert part in printed
    assert "ddp does not fit; would do: " in printed


def test_a_model_without_attention_is_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MambaConfig(num_hidden_layers=1, hidden_size=8, vocab_size=8).save_pretrained(tmp_path)
    recipe = str(ROOT / "recipes" / "countdown_tiny.yaml")
    assert main(["plan", "--config", recipe, "--gpus", "1", "--model_name_or_path", str(tmp_path)]) == 2
    assert "is a mamba without one number of attention heads" in capsys.readouterr().err


def test_an_adapters_folder_is_planned_as_its_base_model_of_which_the_adapter_trains(tmp_path: Path) -> None:
    model = build_model(build_tokenizer(), SMALL, seed=0)
    model.save_pretrained(tmp_path / "base")
    model.name_or_path = str(tmp_path / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    recipe = ["--config", "countdown_tiny", "--model_name_or_path", str(tmp_path / "adapter")]
    shape = plan_recipe(recipe, Machines(1)).shape
    trained, in_all = adapted.get_nb_trainable_parameters()
    assert (shape.trained_parameters, shape.parameters) == (trained, in_all - trained)
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"is an adapter of .*base', which has moved"):
        plan_recipe(recipe, Machines(1))


def test_a_recipe_may_have_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(ROOT / "recipes" / "countdown_tiny.yaml")
    assert main(["plan", "--config", recipe, "--gpus", "1", "--recipe", "a [/red] b"]) == 0
    assert "a [/red] b: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "0"], "gpus: 0 is below 1"),
        (["--gpus", "3", "--nodes", "2"], "gpus: 3 over all machines cannot be divided among 2 nodes"),
        (["--gpus", "1", "--launch", "zero9"], "launch: 'zero9' is no launch file"),
        (["--gpus", "1", "--num_generation", "4"], "num_generation: unknown field"),
        (["--gpus", "1", "--gpu-memory-gib", "nan"], "gpu_memory_gib: nan is no size above 0"),
        (["--gpus", "1", "--gpu-memory-gib", "inf"], "gpu_memory_gib: inf is no size above 0"),
        (["--gpus", "1", "--gpu-memory-gib", "0"], "gpu_memory_gib: 0.0 is no size above 0"),
        (["--gpus", "1", "--prompt-tokens", "0"], "prompt_tokens: 0 is below 1"),
        (["--gpus", "1", "--model_name_or_path", "{here}"], "model_name_or_path: no configuration of"),
        # TRL's own check, with the planned number of processes
        (["--gpus", "3", "--num_generations", "5"], "5"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [word.format(here=tmp_path) for word in arguments]
    assert main(["plan", "--config", str(ROOT / "recipes" / "countdown_tiny.yaml"), *arguments]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_a_vllm_server_leaves_the_training_gpus_nothing_to_generate(models: dict[str, str]) -> None:
    arguments = ["--config", "countdown_3b_base", "--model_name_or_path", models["3"]]
    [here], [served] = (
        plan_recipe([*arguments, *extra], Machines(4, launch="zero3")).memory
        for extra in ([], ["--vllm_mode", "server"])
    )
    assert served.rollout == {} and served.vllm_rows is None and served.fits
    assert [name for name in here.states | here.rollout if name not in served.states] == ["vLLM (weights and KV cache)"]


def test_contradictions_and_lost_steps_are_said(models: dict[str, str]) -> None:
    recipe = ROOT / "recipes" / "countdown_adaptive.yaml"
    given = ["--config", str(recipe), "--model_name_or_path", models["1.5"], "--vllm_tensor_parallel_size", "8"]
    given += ["--vllm_max_model_length", "4000"]
    plan = plan_recipe(given, Machines(4))
    assert not plan.fits
    text = "\n".join(plan.complaints)
    for part in ("8 does not divide the 4 GPUs", "8 does not divide the model's 12 heads", "4000 is less than 4352"):
        assert part in text
    [warning] = plan.warnings
    assert warning.startswith("ddp: weights and moments stay in half precision, where steps of 1e-06")
    launches = {path.stem: str(path) for path in (ROOT / "configs" / "accelerate").glob("*.yaml")}
    ways = {name: Machines(4, launch=path).ways()[0] for name, path in launches.items()}
    assert ways.pop("cpu") == "single_gpu" and ways.pop("multi_node_zero3") == "zero3"
    assert all(name == way for name, way in ways.items())


def test_a_row_beyond_the_models_positions_contradicts(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "--config", "countdown_tiny", "--gpus", "1", "--max_completion_length"]
    said = "max_completion_length: {} tokens after a prompt of 256 exceed the model's 2048 positions; use at most 1792"
    for length, contradicts in ((1792, False), (1793, True)):
        assert main([*command, str(length)]) == 0
        assert (said.format(length) in " ".join(capsys.readouterr().out.split())) == contradicts


def test_a_recipe_in_fp16_is_planned_where_there_is_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    half = ["--fp16", "true", "--bf16", "false"]
    assert main(["plan", "--config", "countdown_tiny", "--gpus", "1", *half]) == 0, capsys.readouterr().err
