"""The table of bad inputs: each ends with exit status 2 and its one line, and leaves nothing behind."""

import json
import pickle
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import save_file

from tests.support.tiny_models import PROBLEMS, save_tiny_model, write_problems
from tests.support.training import RECIPE
from tinyzero_trl.commands import main as cli
from tinyzero_trl.commands import train
from tinyzero_trl.runs.records import RunRecords

HERE = Path(__file__).parent
ROWS = yaml.safe_load((HERE / "bad_inputs.yaml").read_text(encoding="utf-8"))
GOOD_RECIPE = {
    **RECIPE,
    **{"model_name_or_path": "model", "dataset": "problems"},
    **{"output_dir": "out", "resume": "never"},
}
GOOD_GRID = {"output": "out", "seeds": [0], "launch": ["no-such-program"], "runs": {"a": {"recipe": "tiny.yaml"}}}
EVALUATE = "tinyzero-trl eval --model {} --data {} --max-completion-length 4 --out out"


class Owned:
    """Unpickling it would leave a file behind."""

    def __reduce__(self) -> tuple:
        return open, ("owned", "w")


def _json(folder: Path, name: str, **changes: Any) -> None:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _tokenizer_of_another(folder: Path) -> None:
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    _json(folder, "tokenizer.json", added_tokens=[*added, {**added[-1], "id": 500, "content": "["}])


def _code_of_its_own(folder: Path) -> None:
    _json(
        folder, "config.json", model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    )
    (folder / "own.py").write_text("open('owned', 'w')\n")


def _without_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Owned()}))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "without configuration": lambda folder: (folder / "config.json").unlink(),
    "list for a configuration": lambda folder: (folder / "config.json").write_text("[]"),
    "unknown architecture": lambda folder: (folder / "config.json").write_text('{"model_type": "abacus"}'),
    "without weights": lambda folder: (folder / "model.safetensors").unlink(),
    "junk for weights": lambda folder: (folder / "model.safetensors").write_bytes(b"junk" * 100),
    "weights cut short": lambda folder: (folder / "model.safetensors").open("r+b").truncate(5000),
    "pickled weights": _pickled,
    "weights of other shapes": lambda folder: _json(folder, "config.json", intermediate_size=32),
    "a layer too few": lambda folder: _json(
        folder, "config.json", num_hidden_layers=3, layer_types=["full_attention"] * 3
    ),
    "code of its own": _code_of_its_own,
    "without tokenizer": _without_tokenizer,
    "damaged tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{"),
    "tokenizer of another model": _tokenizer_of_another,
    "run of an unknown task": lambda folder: (folder / "config.yaml").write_text("task: chess"),
    "run without a mapping": lambda folder: (folder / "config.yaml").write_text("- a"),
    "run of wrong types": lambda folder: (folder / "config.yaml").write_text("task: [1]"),
    "broken chat template": lambda folder: (folder / "chat_template.jinja").write_text("{% for x in %}"),
    "chat template that reaches for Python": lambda folder: (folder / "chat_template.jinja").write_text(
        "{{ messages.__class__.__mro__ }}"
    ),
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good and bad things in it, by the names that the table uses."""
    folder = tmp_path_factory.mktemp("workshop")
    save_tiny_model(folder / "model")
    write_problems(folder / "problems.jsonl")
    fewer = (folder / "problems.jsonl").read_text().splitlines()[:9]
    (folder / "fewer.jsonl").write_text("\n".join(fewer))
    for name in ("problems", "same", "folder", "occupied", "occupied/test.parquet", "unfinished"):
        (folder / name).mkdir()
    for split in ("train", "test"):
        write_problems(folder / "same" / f"{split}.jsonl")
    write_problems(folder / "problems" / "train.jsonl")
    others = [json.dumps({"nums": numbers, "target": target + 1}) for numbers, target in PROBLEMS]
    (folder / "problems" / "test.jsonl").write_text("\n".join(others))
    for name, text in {"file": "a file", "tiny.yaml": "seed: 0", "text.parquet": "PAR1 or not"}.items():
        (folder / name).write_text(text)
    (folder / "unfinished" / "generations.partial.jsonl").write_text('{"model": "another"}\n[{}]\n')
    (folder / "recipe.yaml").write_text(yaml.safe_dump(GOOD_RECIPE))
    (folder / "grid.yaml").write_text(yaml.safe_dump(GOOD_GRID))
    _write_parquet_files(folder)
    _write_checkpoints(folder / "checkpoints")
    for name in ("run", "other"):
        records = RunRecords(folder / name)
        records.write_config({"recipe": name, "seed": 0})
        records.append_eval(0, 1.0, 0, {"eval/acc": 0.5})
    return folder


def _write_parquet_files(folder: Path) -> None:
    numbers = pa.array([[1, 2]] * 2000, pa.list_(pa.int64()))
    tables = {
        "flipped": {"nums": numbers, "target": [3] * 2000},
        "columns": {"question": ["1 + 2"]},
        "no_rows": {"nums": pa.array([], pa.list_(pa.int64())), "target": pa.array([], pa.int64())},
        "fractions": {"nums": [[1.5, 2.0]], "target": [3]},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    whole = (folder / "flipped.parquet").read_bytes()
    (folder / "truncated.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "flipped.parquet").write_bytes(whole[:10] + b"\xff" * 50 + whole[60:])


def _write_checkpoints(folder: Path) -> None:
    saved = {"of_fixed": "fixed", "of_multiplication/checkpoint-3": "success", "of_a_wider_model": "success"}
    saved |= {"of_other_fields/checkpoint-2": "success", "of_a_schedule/checkpoint-2": "success"}
    for name, strategy in saved.items():
        (folder / name).mkdir(parents=True)
        callback = {"AdaptiveWindowCallback": {"args": {}, "attributes": {"saved": {"strategy": strategy}}}}
        state = {"global_step": 3, "stateful_callbacks": callback}
        (folder / name / "trainer_state.json").write_text(json.dumps(state))
        save_file({"weight": np.ones(1)}, folder / name / "model.safetensors")
    (folder / "of_multiplication" / "config.yaml").write_text("task: multiplication")
    (folder / "of_a_wider_model" / "config.json").write_text('{"model_type": "qwen2", "hidden_size": 4096}')
    (folder / "of_other_fields" / "config.yaml").write_text("learning_rate: 1.0\nuse_peft: true\nsave_steps: 9\n")
    (folder / "of_a_schedule" / "config.yaml").write_text("max_steps: 2\n")
    (folder / "half_written").mkdir()
    (folder / "without_weights").mkdir()
    (folder / "without_weights" / "trainer_state.json").write_text('{"global_step": 3}')


def _given(row: dict[str, Any], folder: Path) -> str:
    """Write what the row gives, and return the command line that meets it."""
    if "recipe" in row or "grid" in row:
        kind, good = ("recipe", GOOD_RECIPE) if "recipe" in row else ("grid", GOOD_GRID)
        content = row[kind]
        if isinstance(content, dict):
            content = yaml.safe_dump({name: value for name, value in {**good, **content}.items() if value is not None})
        (folder / "given.yaml").write_text(content)
        command = "countdown_adaptive.py --config given.yaml" if kind == "recipe" else "tinyzero-trl ablate given.yaml"
    elif "run" in row:
        shutil.copytree(folder / "run", folder / "broken")
        for name, text in row["run"].items():
            (folder / "broken" / name).parent.mkdir(exist_ok=True)
            (folder / "broken" / name).unlink(missing_ok=True) if text is None else (
                folder / "broken" / name
            ).write_text(text)
        command = "tinyzero-trl report broken --out out"
    elif "model" in row:
        shutil.copytree(folder / "model", folder / "broken")
        DAMAGES[row["model"]](folder / "broken")
        command = EVALUATE.format("broken", "problems.jsonl")
    elif "problems" in row:
        (folder / "given.json").write_text(row["problems"])
        command = EVALUATE.format("model", "given.json")
    else:
        command = ""
    return row.get("call", command)


def _all_below(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def answer(row: dict[str, Any], folder: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the program that the row calls, in this process."""
    name, *arguments = shlex.split(_given(row, folder))
    before = _all_below(folder)
    capfd.readouterr()
    try:
        status = cli.main(arguments) if name == "tinyzero-trl" else train.main(arguments)
    except SystemExit as end:
        status = end.code
    after = _all_below(folder)
    assert after == before, f"left behind or changed: {[name for name in after if after[name] != before.get(name, 0)]}"
    return status, *capfd.readouterr()


@pytest.fixture
def in_workshop(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The workshop as current folder, offline; what the row gave is taken away afterwards."""
    monkeypatch.chdir(workshop)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    yield workshop
    for name in ("given.yaml", "given.json"):
        (workshop / name).unlink(missing_ok=True)
    shutil.rmtree(workshop / "broken", ignore_errors=True)
    shutil.rmtree(workshop / "out", ignore_errors=True)


def _name(row: dict[str, Any]) -> str:
    return " ".join(f"{value}" if key == "call" else f"{key} {value}" for key, value in row.items() if key != "says")


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_a_bad_input_is_answered_in_one_line(
    row: dict[str, Any], in_workshop: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, output, errors = answer(row, in_workshop, capfd)
    assert status == 2
    assert errors.count("\n") == 1, errors
    assert "Traceback" not in errors + output
    assert re.fullmatch(".*".join(map(re.escape, row["says"].split("..."))), errors.strip()), errors
    assert not (in_workshop / "owned").exists()


def test_the_table_is_long_and_covers_every_command() -> None:
    assert len(ROWS) >= 60
    calls = " ".join(row.get("call", "") for row in ROWS)
    for command in ("data", "eval", "ablate", "report", "warmstart"):
        assert f"tinyzero-trl {command}" in calls
    assert {row["model"] for row in ROWS if "model" in row} == set(DAMAGES)
