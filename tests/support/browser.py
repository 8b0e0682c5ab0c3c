"""A headless Chromium, where there is one: a page as the browser has it after loading, and what of it does not fit."""

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WITHOUT = "no Chromium is installed"
PHONE, DESKTOP = 390, 1280  # CSS pixels

# Each page in a frame of each width. What sticks out is named.
_MEASURE = """<!doctype html><meta charset="utf-8"><pre id="found"></pre>{frames}<script>
addEventListener("load", () => {{
  const found = [];
  const scrolls = each => each && (getComputedStyle(each).overflowX !== "visible" || scrolls(each.parentElement));
  for (const frame of document.querySelectorAll("iframe")) {{
    const page = frame.contentDocument, name = frame.width + " px: " + frame.getAttribute("src");
    if (page.documentElement.scrollWidth > frame.clientWidth) {{
      const wide = [...page.body.querySelectorAll("*")].filter(
        each => each.getBoundingClientRect().right > frame.clientWidth + 1 && !scrolls(each.parentElement));
      found.push(name + " is too wide: " + wide.slice(0, 3).map(each => each.outerHTML.slice(0, 80)).join(" "));
    }}
    for (const picture of page.images)
      if (!picture.naturalWidth) found.push(name + " lacks " + picture.getAttribute("src"));
  }}
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script>"""


def dump(page: Path, profile: Path, *options: str, timeout_s: float = 120) -> str:
    """The document of a file as the browser has it once the page's scripts have run.

    Args:
        page: an HTML file.
        profile: a folder for what the browser keeps.
        options: further ones of Chromium.
        timeout_s: seconds after which the browser is ended.

    Raises:
        subprocess.TimeoutExpired: it took longer.
    """
    command = [str(BROWSER), "--headless", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--no-sandbox"] if os.geteuid() == 0 else []
    command += [f"--user-data-dir={profile}", *options, "--dump-dom", page.absolute().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True).stdout


def what_does_not_fit(folder: Path, files: list[Path], profile: Path, *, scripts: bool = False) -> list[str]:
    """Pages that are wider than a phone or a desktop, and pictures that are not there, one line each.

    Args:
        folder: where the pages lie; the page that measures them is written there.
        files: the pages.
        profile: a folder for what the browser keeps.
        scripts: whether the pages' own scripts run; to leave them out is faster where they change no layout.
    """
    allowed = "allow-same-origin" + " allow-scripts" * scripts
    frames = "".join(
        f'<iframe sandbox="{allowed}" width="{width}" height="60" style="border: 0" '
        f'src="{file.relative_to(folder).as_posix()}"></iframe>\n'
        for width in (PHONE, DESKTOP)
        for file in files
    )
    measuring = folder / "measure.html"
    measuring.write_text(_MEASURE.format(frames=frames), encoding="utf-8")
    shown = dump(measuring, profile, "--allow-file-access-from-files", timeout_s=900)
    found = re.search(r'(?s)<pre id="found">(.+?)</pre>', shown)
    assert found, "the frames were not measured"
    return json.loads(unescape(found[1]))
