"""MkDocs hook: pages of the site that lie outside docs/, and links between docs/ and the rest of the repository.

A page is written once. README.md is the first page of the site, and a link in it to `docs/results.md` leads to
`results.md` there. Any other file that a page links to is carried into the site under `files/`.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
    "records.md": "results/README.md",
}
_LINK = re.compile(r"(?P<before>\]\()(?P<target>(?!\w+:|#)[^)\s#]+)(?P<after>(?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and the linked files that lie outside docs/."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for file in list(files.documentation_pages()):
        folder, text = _source_folder(file.src_uri), file.content_string
        for link in _LINK.finditer(_without_code(text)):
            place = place_in_site(folder, link["target"])
            if place and place.startswith("files/") and files.get_file_from_path(place) is None:
                source = str(ROOT / place.removeprefix("files/"))
                files.append(File.generated(config, place, abs_src_path=source, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let every relative link lead to the place in the site."""
    folder, here = _source_folder(page.file.src_uri), os.path.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        place = place_in_site(folder, link["target"])
        target = link["target"] if place is None else os.path.relpath(place, here or ".")
        return f"{link['before']}{target}{link['after']}"

    return _LINK.sub(moved, markdown)


def place_in_site(folder: Path, target: str) -> str | None:
    """Where the site has the file that a page in `folder` links to; None where there is no such file."""
    file = (folder / target).resolve()
    if not file.is_file():
        return None  # the strict build reports it
    if file.is_relative_to(DOCS):
        return file.relative_to(DOCS).as_posix()
    within = file.relative_to(ROOT).as_posix()
    return next((page for page, source in PAGES.items() if source == within), f"files/{within}")


def _source_folder(page: str) -> Path:
    return (ROOT / PAGES[page]).parent if page in PAGES else (DOCS / page).parent


def _without_code(text: str) -> str:
    return re.sub(r"(?ms)^```.*?^```", "", text)
