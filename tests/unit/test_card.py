"""A model card says what was recorded, and nothing that must stay private."""

from pathlib import Path
from types import SimpleNamespace

import yaml

from tinyzero_trl.runs.model_card import write_model_card
from tinyzero_trl.runs.records import RunRecords, read_run
from tinyzero_trl.training.run import _step_of_kept_weights, summarise

EVAL = {"eval/acc": 0.625, "eval/acc_low": 0.5, "eval/acc_high": 0.75, "eval/n": 64.0}


def card(folder: Path, evaluated: bool = True, **config) -> tuple[dict, str]:
    """The card's metadata and its text."""
    records = RunRecords(folder)
    records.write_config(
        {
            "model_name_or_path": "Qwen/Qwen2.5-0.5B",
            "output_dir": str(folder),
            "task": "countdown",
            "recipe": "countdown_tiny",
            "window_strategy": "success",
            "window_min": 16,
            "window_max": 256,
            "seed": 3,
            "hub_token": "hf_secret",
            **config,
        }
    )
    records.write_environment()
    if evaluated:
        records.append_eval(40, 1.0, 123_456, EVAL)
    text = write_model_card(folder).read_text()
    _, metadata, body = text.split("---\n", 2)
    return yaml.safe_load(metadata), body


def test_a_card_tells_base_task_window_and_accuracy(tmp_path: Path) -> None:
    metadata, body = card(tmp_path / "run")
    assert metadata["base_model"] == "Qwen/Qwen2.5-0.5B"
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("transformers", "text-generation")
    assert "tinyzero-trl" in metadata["tags"]
    assert body.strip().startswith("# run\n")
    for fact in (
        "countdown_tiny",
        "16 to 256 tokens",
        "62.5% (95 % interval 50.0% to 75.0%, 64 problems, step 40)",
        "123,456",
    ):
        assert fact in body


def test_a_card_does_not_call_the_maximum_of_groups_a_window(tmp_path: Path) -> None:
    body = card(tmp_path / "run", window_strategy="group")[1]
    assert "256 tokens, before which groups may stop" in body and "16 to 256" not in body


def test_summary_and_card_tell_the_accuracy_of_the_weights_that_are_kept(tmp_path: Path) -> None:
    """With `load_best_model_at_end` those may be of an earlier step."""
    card(tmp_path / "run")
    records = RunRecords(tmp_path / "run")
    records.append_eval(50, 2.0, 200_000, {**EVAL, "eval/acc": 0.25, "time/elapsed_s": 9.0})
    ends, best = summarise(read_run(tmp_path / "run")), summarise(read_run(tmp_path / "run"), best_step=40)
    assert (ends["accuracy_after"]["mean"], ends.get("best_step")) == (0.25, None)
    assert (best["accuracy_after"]["mean"], best["best_step"], best["steps"]) == (0.625, 40, 50)
    records.write_summary(best)
    text = write_model_card(tmp_path / "run").read_text()
    assert "62.5% (95 % interval 50.0% to 75.0%, 64 problems, step 40)" in text and "25.0%" not in text


def test_no_token_and_no_picture_that_is_not_there(tmp_path: Path) -> None:
    metadata, body = card(tmp_path / "run", evaluated=False)
    assert "hf_secret" not in body + str(metadata)
    assert "plots/" not in body and "accuracy" not in body
    (tmp_path / "run" / "plots").mkdir()
    (tmp_path / "run" / "plots" / "accuracy.png").write_bytes(b"png")
    assert "(plots/accuracy.png)" in card(tmp_path / "run")[1]


def test_a_local_base_model_is_no_model_of_the_hub(tmp_path: Path) -> None:
    """The Hub would refuse a card whose base model is a path."""
    (tmp_path / "models" / "base").mkdir(parents=True)
    for local in ("embedded", "./models/base", str(tmp_path / "models" / "base"), str(tmp_path / "models" / "gone")):
        metadata, body = card(tmp_path / "run", model_name_or_path=local)
        assert "base_model" not in metadata
        assert f"Trained from `{local.removeprefix(str(tmp_path / 'models') + '/')}`" in body
        assert str(tmp_path) not in body


def test_text_from_a_recipe_cannot_break_the_table_or_the_metadata(tmp_path: Path) -> None:
    metadata, body = card(tmp_path / "run", recipe="a|b\n---\n<script>x</script>`", model_name_or_path="a/b\n---: x")
    rows = [line for line in body.splitlines() if line.startswith("| recipe")]
    assert len(rows) == 1
    assert rows[0].replace("\\|", "").count("|") == 3
    assert "<script>" not in body
    assert "\n---" not in body
    assert set(metadata) <= {"library_name", "pipeline_tag", "tags", "base_model", "model-index"}


def test_text_from_a_recipe_brings_no_picture_and_no_link(tmp_path: Path) -> None:
    _, body = card(tmp_path / "run", recipe="![x](http://host/x.png) [y](http://host)")
    assert "&#91;x](http" in body and "&#91;y](http" in body
    assert "![x" not in body and "[y" not in body


def test_the_accuracy_stands_in_the_model_index(tmp_path: Path) -> None:
    """So that the Hub shows it beside the model; several answers to a problem are told as what they are."""
    metadata, _ = card(tmp_path / "run")
    [model] = metadata["model-index"]
    [result] = model["results"]
    assert (model["name"], result["task"]["type"]) == ("run", "text-generation")
    assert result["dataset"] == {"name": "countdown, held-out problems", "type": "countdown", "split": "test"}
    [metric] = result["metrics"]
    assert (metric["type"], metric["value"]) == ("accuracy", 0.625)
    assert "model-index" not in card(tmp_path / "not_evaluated", evaluated=False)[0]
    records = RunRecords(tmp_path / "run")
    records.append_eval(50, 2.0, 200_000, {**EVAL, "eval/problems": 16.0})
    assert (
        "(95 % interval 50.0% to 75.0%, 16 problems, 64 answers, step 50)" in write_model_card(records.path).read_text()
    )


def test_the_held_out_problems_of_a_run_without_a_task_are_named_once(tmp_path: Path) -> None:
    [model] = card(tmp_path / "run", task=None)[0]["model-index"]
    assert model["results"][0]["dataset"]["name"] == "held-out problems"


def test_an_evaluation_in_which_nothing_was_judged_has_no_accuracy_to_tell(tmp_path: Path) -> None:
    card(tmp_path / "run", evaluated=False)
    RunRecords(tmp_path / "run").append_eval(50, 2.0, 200_000, {"eval/mean_length": 12.0})
    assert "accuracy" not in write_model_card(tmp_path / "run").read_text()


def test_the_weights_of_a_best_step_that_was_not_saved_are_not_kept(tmp_path: Path) -> None:
    def kept(best: str | None, *, loads: bool = True) -> int | None:
        state, args = SimpleNamespace(best_model_checkpoint=best), SimpleNamespace(load_best_model_at_end=loads)
        return _step_of_kept_weights(SimpleNamespace(state=state, args=args))  # type: ignore[arg-type]

    (tmp_path / "checkpoint-20").mkdir()
    assert kept(str(tmp_path / "checkpoint-20")) == 20
    assert kept(str(tmp_path / "checkpoint-20"), loads=False) is None
    assert kept(str(tmp_path / "checkpoint-30")) is None, "it could not be written"
    assert kept(None) is None
