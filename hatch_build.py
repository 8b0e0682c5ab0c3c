"""What the package says of its repository. Its address is not written here: whoever builds the package gives it.

`REPOSITORY_URL=https://... python -m build` adds the links of the project to the metadata, and lets the links and
pictures of README.md lead to the repository, so that a package index shows them. The release workflow does so.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^]]*)\]\((?!\w+:|#)([^)]+)\)")


class RepositoryAddress(MetadataHookInterface):
    """Adds `urls` and `readme`; named in pyproject.toml."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set both, the links only where an address is given."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if address := os.environ.get("REPOSITORY_URL", "").rstrip("/"):
            metadata["urls"] = links(address)
            text = with_absolute_links(text, address, f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def links(address: str) -> dict[str, str]:
    """The links that a package index shows beside the description."""
    return {
        "Repository": address,
        "Documentation": f"{address}/tree/main/docs",
        "Changes": f"{address}/blob/main/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }


def with_absolute_links(text: str, address: str, tag: str) -> str:
    """Markdown whose relative links lead to the repository as it was at `tag`; pictures to the files themselves."""

    def absolute(link: re.Match[str]) -> str:
        is_picture, name, target = link.groups()
        return f"{is_picture}[{name}]({address}/{'raw' if is_picture else 'blob'}/{tag}/{target})"

    return _LINK.sub(absolute, text)
