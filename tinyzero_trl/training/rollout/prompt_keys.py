"""A short key for each prompt: by it the prompt is recognised when it comes again."""

import hashlib
import json
from typing import Any


def prompt_key(prompt: Any) -> str:
    """The same for every visit of a prompt, text or conversation, and hardly ever for two prompts."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
