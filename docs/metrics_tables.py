"""Writes the tables of docs/metrics.md from the registry of metrics: `python docs/metrics_tables.py`."""

import re
from pathlib import Path

from tinyzero_trl.metrics import METRICS

PAGE = Path(__file__).with_name("metrics.md")
HEAD = "| name | unit | formula | meaning |\n| --- | --- | --- | --- |\n"
_SECTION = re.compile(r"(?m)^## .*`(?P<prefix>\w+/)`\n(?P<text>(?:(?!## |\|).*\n)*)(?P<table>(?:\|.*\n)*)")


def with_tables(page: str) -> str:
    """The page with the table of every section renewed; a section names its metrics' prefix in its heading.

    Raises:
        ValueError: if a registered metric has no section.
    """
    sections = [match["prefix"] for match in _SECTION.finditer(page)]
    if missing := [name for name in METRICS if f"{name.split('/')[0]}/" not in sections]:
        raise ValueError(f"{PAGE.name} has no section for {', '.join(missing)}: add a heading with its prefix")
    return _SECTION.sub(lambda match: match[0].removesuffix(match["table"]) + _table(match["prefix"]), page)


def _table(prefix: str) -> str:
    rows = (
        f"| `{name}` | {metric.unit} | {metric.formula} | {metric.meaning} |\n"
        for name, metric in METRICS.items()
        if name.startswith(prefix)
    )
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
