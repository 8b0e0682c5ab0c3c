"""What SECURITY.md promises of the code: nothing from outside is run, and Transformers keeps its part."""

import ast
import copy
import inspect
import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers.trainer
from transformers import Qwen2Config

from tinyzero_trl.commands.main import main
from tinyzero_trl.models.loading import SAFE
from tinyzero_trl.training.config import AdaptiveGRPOConfig
from tinyzero_trl.training.model_kwargs import model_init_kwargs

ROOT = Path(__file__).parents[2]
SOURCES = [file for folder in ("tinyzero_trl", "recipes", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
UNPICKLING = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
RUNNING = {"eval", "exec", "compile", "__import__"}


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _dangers(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            found += [f"imports {module}" for module in modules if module.split(".")[0] in UNPICKLING]
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            found += [
                f"{key.value!s} is not a plain {safe}"
                for key, value in pairs
                if isinstance(key, ast.Constant) and (safe := SAFE.get(key.value)) is not None
                if not (isinstance(value, ast.Constant) and value.value is safe)
            ]
        if not isinstance(node, ast.Call):
            continue
        called, on = _name(node.func), _name(getattr(node.func, "value", ast.Name("")))
        given = {keyword.arg: getattr(keyword.value, "value", "computed") for keyword in node.keywords}
        if (called in RUNNING and isinstance(node.func, ast.Name)) or (on == "os" and called in ("system", "popen")):
            found.append(f"calls {called}")
        if (on, called) == ("yaml", "load") or called in ("unsafe_load", "full_load"):
            found.append(f"calls yaml.{called}")
        if (on, called) == ("torch", "load") and given.get("weights_only") is not True:
            found.append("calls torch.load without weights_only=True")
        if given.get("allow_pickle", False) is not False or given.get("shell", False) is not False:
            found.append(f"calls {called} with {given}")
        if given.get("trust_remote_code", False) is not False:
            found.append(f"calls {called} with remote code")
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_from_outside_is_run(file: Path) -> None:
    assert _dangers(ast.parse(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval(answer)",
        "os.system(answer)",
        "yaml.load(text)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "numpy.load(file, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=args.trust)",
        "{'trust_remote_code': given}",
    ],
)
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert _dangers(ast.parse(line))


def _loads_that_ask(tree: ast.AST) -> list[str]:
    """Calls of an `Auto...` class, or of `load` with one, that leave `trust_remote_code` to a person's answer."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        loaders = [each for each in (call.func, *call.args) if isinstance(each, ast.Attribute)]
        is_loader = any(
            each.attr in ("from_pretrained", "from_config") and _name(each.value).startswith("Auto") for each in loaders
        )
        if is_loader and not {"trust_remote_code", None} & {keyword.arg for keyword in call.keywords}:
            found.append(ast.unparse(call))
    return found


@pytest.mark.parametrize("file", [each for each in SOURCES if "tinyzero_trl" in each.relative_to(ROOT).parts])
def test_no_load_asks_a_person_whether_to_run_code(file: Path) -> None:
    assert _loads_that_ask(ast.parse(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("line", ["AutoModel.from_config(config)", "load(AutoConfig.from_pretrained, path)"])
def test_the_search_finds_loads_that_ask(line: str) -> None:
    assert _loads_that_ask(ast.parse(line))


def test_a_plan_runs_no_code_of_the_model_even_if_somebody_says_yes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda _: "y")
    named = {"model_type": "t5", "auto_map": {"AutoModelForCausalLM": "code.Code"}}  # t5 is no causal model
    (tmp_path / "config.json").write_text(json.dumps(named), encoding="utf-8")
    ran = tmp_path / "ran"
    (tmp_path / "code.py").write_text(f"open({str(ran)!r}, 'w')", encoding="utf-8")
    recipe = str(ROOT / "recipes" / "countdown_tiny.yaml")
    assert main(["plan", "--gpus", "1", "--config", recipe, "--model_name_or_path", str(tmp_path)]) == 2
    assert "contains custom code" in capsys.readouterr().err
    assert not ran.exists()


def test_a_recipe_cannot_turn_the_safe_settings_off(tmp_path: Path) -> None:
    given = {"use_safetensors": False, "trust_remote_code": False}
    config = AdaptiveGRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, model_init_kwargs=given)
    model: Any = SimpleNamespace(dtype="float32", attn_implementation=None, model_revision="main")
    settings = model_init_kwargs(model, config, Qwen2Config())
    assert {name: settings[name] for name in SAFE} == SAFE == {"trust_remote_code": False, "use_safetensors": True}


def test_transformers_reads_checkpoints_without_running_them() -> None:
    tree = ast.parse(inspect.getsource(transformers.trainer))
    loads = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node.func) == "load"]
    loads = [node for node in loads if ast.unparse(node.func) == "torch.load"]
    assert len(loads) >= 5
    for node in loads:
        assert "weights_only=True" in ast.unparse(node)
    reads = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [call for call in reads if "TRAINING_ARGS_NAME" in call and "load" in call.split("(")[0]]


def test_pickled_arguments_hold_no_token(tmp_path: Path) -> None:
    secret = "hf_plantedsecret0"
    config = AdaptiveGRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, hub_token=secret)
    assert secret.encode() not in pickle.dumps(config)
    assert config.hub_token == secret, "it is still there to push with"


def test_no_field_of_pickled_or_tracked_arguments_holds_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted-token")
    config = AdaptiveGRPOConfig(
        str(tmp_path),
        use_cpu=True,
        bf16=False,
        run_name="of planted-token",
        vllm_server_base_url="http://me:planted-password@host:8000",
        generation_kwargs={"stop_strings": ["planted-token"]},
    )
    assert b"planted" not in pickle.dumps(config)
    assert "planted" not in config.to_json_string()
    assert config.vllm_server_base_url == "http://me:planted-password@host:8000", "it is still there to connect with"


def test_copies_of_arguments_keep_the_token_and_are_pickled_without_it(tmp_path: Path) -> None:
    secret = "hf_plantedsecret0"
    config = AdaptiveGRPOConfig(
        str(tmp_path), use_cpu=True, bf16=False, hub_token=secret, generation_kwargs={"typical_p": 0.5}
    )
    for copied in (copy.copy(config), copy.deepcopy(config), copy.deepcopy({"args": config})["args"]):
        assert copied is not config and (copied.hub_token, copied) == (secret, config)
        assert secret.encode() not in pickle.dumps(copied)
        copied.learning_rate = 0.5
        assert config.learning_rate != 0.5
    assert copy.copy(config).generation_kwargs is config.generation_kwargs
    assert copy.deepcopy(config).generation_kwargs is not config.generation_kwargs
