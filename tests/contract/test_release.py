"""A release: one version everywhere, a changelog that has it, a package whose links work on an index."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

import tinyzero_trl
from hatch_build import links, with_absolute_links

ROOT = Path(__file__).parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
ADDRESS = "https://example.org/owner/name"


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest, when = re.findall(r"(?m)^## (\S+) \((.*)\)$", CHANGELOG)[0]
    assert newest == str(citation["version"]) == tinyzero_trl.__version__
    assert when == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", when)


def test_links_and_pictures_of_the_readme_lead_to_the_repository() -> None:
    text = "![a](docs/a.png) [b](docs/b.md#c) [d](https://e.f) [g](#h) `[i](j)`"
    assert with_absolute_links(text, ADDRESS, "v1") == (
        f"![a]({ADDRESS}/raw/v1/docs/a.png) [b]({ADDRESS}/blob/v1/docs/b.md#c) [d](https://e.f) [g](#h) "
        f"`[i]({ADDRESS}/blob/v1/j)`"
    )
    readme = with_absolute_links((ROOT / "README.md").read_text(encoding="utf-8"), ADDRESS, "v1")
    assert f"]({ADDRESS}/raw/v1/docs/pictures/accuracy-demo.png)" in readme
    assert not re.findall(r"\]\((?!https?:|#)", readme)
    assert set(links(ADDRESS)) == {"Repository", "Documentation", "Changes", "Issues"}


@pytest.mark.parametrize(
    ("tag", "heading", "is_right"),
    [
        ("v0.1.0", "## 0.1.0 (2026-12-01)", True),
        ("v0.1.0", "## 0.1.0 (unreleased)", False),
        ("v0.2.0", "## 0.2.0 (2026-12-01)", False),
        ("v0.1.0", "## 0.1.1 (2026-12-01)", False),
    ],
)
def test_a_tag_without_its_version_and_its_changes_is_refused(
    tag: str, heading: str, is_right: bool, tmp_path: Path
) -> None:
    steps = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]["build"]["steps"]
    [check] = [step["run"] for step in steps if "CHANGELOG.md" in step.get("run", "")]
    (tmp_path / "tinyzero_trl").mkdir()
    (tmp_path / "tinyzero_trl" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    (tmp_path / "CITATION.cff").write_text("version: 0.1.0\n")
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", check], cwd=tmp_path, env={"GITHUB_REF_NAME": tag})
    assert (done.returncode == 0) is is_right
