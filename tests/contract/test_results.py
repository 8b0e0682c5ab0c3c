"""The published records: every folder is explained and used, and none is large."""

import gzip
import re
import subprocess
from pathlib import Path

import pytest
from publish_runs import publish

from tinyzero_trl.runs.records import read_run
from tinyzero_trl.runs.report.compare import compare
from tinyzero_trl.runs.report.run_groups import choose_baseline, load_run_groups

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
MOST_BYTES = 5 * 1024**2
EXPLAINED = re.findall(r"(?m)^\| `([\w.]+)/?` \|.*\| (.*) \|$", (RESULTS / "README.md").read_text(encoding="utf-8"))


def test_every_folder_is_explained_and_read_by_the_page_that_is_named() -> None:
    kept = sorted(path.name for path in RESULTS.iterdir() if path.name != "README.md")
    assert sorted(name for name, _ in EXPLAINED) == kept
    tests = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py"))
    for name, readers in EXPLAINED:
        pages = re.findall(r"\]\(\.\./([^)#]+)\)", readers)
        named = [(ROOT / page).read_text(encoding="utf-8") for page in pages]
        assert pages and (f'"{name}"' in tests or any(f"results/{name}" in page for page in named)), name


def test_no_file_of_the_repository_is_large() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 100
    assert not [str(file) for file in files if file.is_file() and file.stat().st_size > MOST_BYTES]
    assert f"--maxkb={MOST_BYTES // 1024}" in (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")


def test_no_record_names_a_path_of_the_machine_that_made_it() -> None:
    """A reader repeats a command from the root of the project: an absolute path is nothing to them."""
    records = [path for path in RESULTS.rglob("*") if path.suffix in {".json", ".jsonl", ".yaml", ".gz"}]
    assert len(records) > 500

    def text_of(record: Path) -> str:
        content = record.read_bytes()
        return (gzip.decompress(content) if record.suffix == ".gz" else content).decode("utf-8")

    absolute = re.compile(r"""["' ]/\w+/\w""")
    assert absolute.search('"data": "/folder/of/someone"')
    assert not [str(record) for record in records if absolute.search(text_of(record))]


def test_a_run_group_has_one_configuration() -> None:
    grids = [folder for folder in RESULTS.iterdir() if any(folder.glob("*/*/eval.jsonl"))]
    assert len(grids) >= 6 and not [file for grid in grids for file in grid.glob("*/*/config.yaml")]


def test_published_runs_are_the_runs_that_were_published(tmp_path: Path) -> None:
    """From kept runs, which `read_run` reads as it reads any others: figures, settings and comparison stay."""
    source = RESULTS / "ablation_tiny_no_halving"
    published = publish(source, tmp_path / "grid")
    assert [run.relative_to(tmp_path / "grid") for run in published] == [
        run.relative_to(source) for run in sorted(source.glob("*/seed_*"))
    ]
    for run in published:
        ours, theirs = read_run(run), read_run(source / run.relative_to(tmp_path / "grid"))
        assert (ours.config, ours.environment, ours.summary) == (theirs.config, theirs.environment, theirs.summary)
        assert (ours.metrics, ours.evals) == (theirs.metrics, theirs.evals)
    groups = load_run_groups(published).groups
    assert compare(groups, choose_baseline(groups, None))
    assert not list((tmp_path / "grid").glob("*/*/config.yaml"))


def test_an_unfinished_run_is_not_published(tmp_path: Path) -> None:
    run = tmp_path / "grid" / "full" / "seed_0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\n")
    (run / "eval.jsonl").write_text('{"step": 0, "time_s": 0.0, "tokens": 0, "eval/acc": 0.5}\n')
    with pytest.raises(ValueError, match="not finished; train to the end first"):
        publish(tmp_path / "grid", tmp_path / "kept")
    with pytest.raises(ValueError, match="holds no runs"):
        publish(tmp_path / "grid" / "full", tmp_path / "kept")
