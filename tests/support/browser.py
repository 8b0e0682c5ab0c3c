"""A headless Chromium, where there is one: a page as the browser has it after loading."""

import os
import shutil
import subprocess
from pathlib import Path

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WITHOUT = "no Chromium is installed"


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
