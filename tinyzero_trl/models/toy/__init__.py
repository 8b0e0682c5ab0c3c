"""Small Qwen2 models with a tokenizer of their own, warm-started on search traces; one is shipped in the package."""

from pathlib import Path

EMBEDDED = "embedded"
FOLDER = Path(__file__).parent / "embedded"
