"""The notebook runs from its first cell to its last, draws while it trains, and shows the report."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install 'tinyzero-trl[docs]'")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install 'tinyzero-trl[docs]'")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install 'tinyzero-trl[docs]'")

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_notebook_trains_draws_and_shows_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    [first] = [cell for cell in notebook.cells if "STEPS = 6\n" in cell.source]
    first.source = first.source.replace("STEPS = 6", "STEPS = 2")
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    data = [output["data"] for output in outputs if "data" in output]
    assert any("image/png" in each for each in data), "a picture is drawn"
    assert any("Completions, before and after" in each.get("text/html", "") for each in data), "the report is shown"
    assert len((tmp_path / "runs" / "notebook" / "metrics.jsonl").read_text().splitlines()) == 2
