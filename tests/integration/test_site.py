"""The built documentation site: no warning, no dead link, and no page that is wider than a phone or a desktop."""

import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.browser import BROWSER, WITHOUT, what_does_not_fit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("mkdocs") is None, reason="MkDocs is not installed: `make docs` runs this"),
]
ROOT = Path(__file__).parents[2]


class _Page(HTMLParser):
    """The anchors of a page, and what it links to or shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.links |= {given[name] for name in ("href", "src") if name in given}


@cache
def parsed(file: Path) -> _Page:
    return _Page(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def pages(site: Path) -> list[Path]:
    return [site / "index.html", *sorted(site.glob("*/index.html"))]


def leads_nowhere(link: str, page: Path) -> bool:
    """Whether a link within the site has no file, or no heading, at its end."""
    address = urlsplit(link)
    if address.scheme or address.netloc:
        return False
    file = page.parent / unquote(address.path) if address.path else page
    file = file / "index.html" if file.is_dir() else file
    if not file.is_file():
        return True
    return bool(address.fragment) and unquote(address.fragment) not in parsed(file.resolve()).anchors


def dead_links(page: Path) -> list[str]:
    return sorted(link for link in parsed(page.resolve()).links if leads_nowhere(link, page))


def test_no_link_of_the_site_is_dead(site: Path) -> None:
    found = {page.parent.name: dead_links(page) for page in pages(site)}
    assert {name: links for name, links in found.items() if links} == {}
    assert len(found) > 25 and "docs/" not in parsed((site / "index.html").resolve()).links


def test_dead_links_are_told(tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text(
        '<a id="here" href="#here">1</a><a href="#gone">2</a><img src="no.png"><a href="https://x.y/z">3</a>'
    )
    assert dead_links(page) == ["#gone", "no.png"]


@pytest.mark.skipif(BROWSER is None, reason=WITHOUT)
def test_no_page_is_wider_than_a_phone_or_a_desktop(site: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide.html"
    wide.write_text('<body><div style="width: 500px">wide</div><img src="no.png">', encoding="utf-8")
    told = what_does_not_fit(tmp_path, [wide], tmp_path / "profile")
    assert [each.split(" wide.html ")[1].split()[0] for each in told] == ["is", "lacks", "lacks"]
    assert what_does_not_fit(site, pages(site), tmp_path / "profile") == []
