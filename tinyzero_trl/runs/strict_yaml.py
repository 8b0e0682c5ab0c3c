"""YAML files from outside, read with one clear error."""

import os
from pathlib import Path
from typing import Any

import yaml

from tinyzero_trl.messages import text_of

_MOST_CHARACTERS = 10_000_000  # that a YAML file may stand for, with its aliases written out


def read_mapping(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML file; tags that would build anything but plain values are refused.

    Raises:
        ValueError: the file is no YAML, holds something else than a mapping of names to values, or a name twice.
        OSError: the file cannot be read.
    """
    try:
        loader = _StrictLoader(Path(path).read_text(encoding="utf-8"))
        loader.name = str(path)
        content = loader.get_single_data()
    except _ContentError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no such day, a number of 5,000 digits
        raise ValueError(f"{path} is not YAML: {text_of(error)}; write it anew") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path}: must hold a mapping of names to values, such as `seed: 0`")
    return content


class _ContentError(ValueError):
    """What the strict loader refuses of YAML itself."""


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, without two things that YAML allows.

    It takes no name twice in a mapping: the second would replace the first in silence. And aliases (`*name`) may not
    multiply: ten lines of nine aliases each are a billion values to whoever walks through them.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._most = max(_MOST_CHARACTERS, len(text))
        self._sizes: dict[int, int] = {}  # characters of a node and of all that it holds, by the node's identity

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Called for each value; for an alias it gives the node that the alias names."""
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if is_alias and id(node) not in self._sizes:
            raise _ContentError(f"{self.name}: an alias (*name) stands in the value that it names; write the value out")
        if not is_alias:
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            within = [each for part in parts for each in (part if isinstance(part, tuple) else (part,))]
            own = len(node.value) if isinstance(node, yaml.ScalarNode) else 1
            self._sizes[id(node)] = own + sum(self._sizes[id(each)] for each in within)
        if self._sizes[id(node)] > self._most:
            raise _ContentError(f"{self.name}: its aliases (*name) multiply what it holds; write the values out")
        return node

    def construct_yaml_int(self, node: Any) -> int:
        """A whole number, if it is one that can be written down."""
        value: int = super().construct_yaml_int(node)
        str(value)
        return value

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Called once for each mapping, before merge keys (`<<`), whose names may come again, become part of it."""
        node = super().compose_mapping_node(anchor)
        names = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in names:
                raise _ContentError(
                    f"{self.name}, line {key.start_mark.line + 1}: {key.value!r} stands there twice; remove one of them"
                )
            names.add((key.tag, str(key.value)))
        return node


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)
