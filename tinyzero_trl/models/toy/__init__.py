"""Small Qwen2 models with a tokenizer of their own, warm-started on worked traces; four are shipped in the package."""

from pathlib import Path

EMBEDDED = "embedded"
_HERE = Path(__file__).parent
SHIPPED = {
    EMBEDDED: _HERE / "embedded",
    "embedded-impatient": _HERE / "embedded_impatient",
    "embedded-demo": _HERE / "embedded_demo",
    "embedded-lengths": _HERE / "embedded_lengths",
}
"""Models of this package by name, and their folders."""
