"""What must never be written down: tokens and keys, known by their field, by their look, or from the environment."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "<hidden>"
SECRET_FIELDS = frozenset({"hub_token", "token", "use_auth_token", "api_key", "password", "secret"})
"""Fields whose value is never shown or kept, in a recipe or in any mapping inside it."""

_SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
# a Hub token; name and password in an address
_LOOKS_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{30,}|(?<=://)[^/@\s]+(?=@)")


def without_secrets(value: Any) -> Any:
    """`value` with every secret in it replaced, in mappings, lists and text alike."""
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if name in SECRET_FIELDS and entry is not None else without_secrets(entry)
            for name, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(entry) for entry in value]
    if not isinstance(value, str):
        return value
    for secret in filter(None, map(os.environ.get, _SECRET_VARIABLES)):
        value = value.replace(secret, HIDDEN)
    return _LOOKS_SECRET.sub(HIDDEN, value)


def shown(name: str, value: Any) -> str:
    """How the value of a field looks in a message."""
    return HIDDEN if name in SECRET_FIELDS else repr(without_secrets(value))


def words_without_secrets(words: Iterable[str]) -> list[str]:
    """Words of a command line as a message shows them: the value of a secret option is hidden, too."""
    hidden, before = [], ""
    for word in words:
        name, equals, _ = word.partition("=")
        if before.startswith("--") and before[2:] in SECRET_FIELDS:
            hidden.append(HIDDEN)
        elif equals and name.startswith("--") and name[2:] in SECRET_FIELDS:
            hidden.append(f"{name}={HIDDEN}")
        else:
            hidden.append(without_secrets(word))
        before = word
    return hidden
