"""Reading of YAML without running what stands in it, nor filling the memory with it."""

import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from detectron2.utils.file_io import PathManager

from ..errors import InputError
from .rules import shown

_SCALES_TAG = "tag:yaml.org,2002:python/object/apply:eval"
# The digits are bounded, so that no file can ask for a list that fills the memory.
_SCALES = re.compile(r"\[int\(x \* 0\.1 \* (\d{1,5})\) for x in range\((\d{1,3}), (\d{1,3})\)\]")
_PLAIN = {
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")
}
_TEXT_TAG, _MERGE_TAG = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
# What no file comes near; beyond, aliases of aliases fill the memory.
_MAX_CHARACTERS, _MAX_VALUES, _MAX_DEPTH = 2**19, 30_000, 20
FETCHED = ("https://", "http://")
"""Starts of addresses that Detectron2 fetches."""


class YamlFile(NamedTuple):
    """What a file holds."""

    content: dict[str, Any]
    lines: dict[str, int]
    """By dotted key, sections included."""


def read_yaml(filename: str, what: str = "configuration") -> YamlFile:
    """A YAML file, which runs no code.

    Args:
        filename: the file, or an address that Detectron2 can fetch.
        what: its noun in errors.

    Raises:
        InputError: the file is missing, no YAML, or holds something else than keys.
    """
    try:
        if not (filename.startswith(FETCHED) or PathManager.isfile(filename)):
            reason = "it is no file" if os.path.exists(filename) else "it does not exist"
            raise OSError(reason)
        with PathManager.open(filename, "r", encoding="utf-8") as stream:
            text = stream.read(_MAX_CHARACTERS + 1)
        if len(text) > _MAX_CHARACTERS:
            raise OSError(f"it has more than {_MAX_CHARACTERS} characters")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the {what} {filename}: {error}; give the path of a YAML file "
            "(--config-file, `_BASE_` in the file that is based on it, DATASETS.DESCRIPTIONS)"
        ) from error
    return parse_yaml(text, filename, what)


def parse_yaml(text: str, source: str, what: str) -> YamlFile:
    """What a text holds; see :func:`read_yaml`, whose ``filename`` is ``source``."""
    try:
        loader = _SafeLoader(text)
        node = loader.get_single_node()
        content = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(_yaml_problem(source, error)) from error
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds {shown(content)}"
        raise InputError(f"{source} {found}; a {what} is a map of keys and values")
    return YamlFile(content, dict(_lines(node)))


def _yaml_problem(filename: str, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{filename}, line {mark.line + 1}" if mark else filename
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    if not isinstance(error, yaml.YAMLError):
        problem = "a number has thousands of digits"
    if isinstance(error, _Refused):
        return f"{place}: {problem}; mend the file"
    if not isinstance(error, yaml.constructor.ConstructorError):
        return f"{place}: not valid YAML: {problem}; mend the file"
    return (
        f"{place}: {problem}; tags that run code are refused. The only one understood is "
        '!!python/object/apply:eval ["[int(x * 0.1 * N) for x in range(A, B)]"]; write out '
        "anything else as a plain value"
    )


def _lines(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The line of each dotted key; of a node from which values were made, so without merge keys."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        yield f"{prefix}{key.value}", key.start_mark.line + 1
        yield from _lines(value, f"{prefix}{key.value}.")


class _Refused(yaml.MarkedYAMLError):
    """YAML that is valid, but no configuration."""


class _SafeLoader(yaml.SafeLoader):
    """A safe loader that also knows the one Python expression of the original's files.

    It takes plain values alone, refuses keys that stand twice, and counts values before it makes
    any: an alias counts as all that it stands for.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._counts: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """PyYAML's, which is called for every value, with bounds."""
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _refused(f"values are nested more than {_MAX_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and node not in self._counts:
            raise _refused("an alias is of what it stands in", mark)
        if len(self._counts) > _MAX_VALUES:
            raise _refused(f"it holds more than {_MAX_VALUES} values", mark)
        pairs = [] if isinstance(node, yaml.ScalarNode) else node.value
        pairs = pairs if isinstance(node, yaml.MappingNode) else [pairs]
        count = 1 + sum(self._counts[child] for pair in pairs for child in pair)
        if count > _MAX_VALUES:
            raise _refused(f"its aliases are of more than {_MAX_VALUES} values", mark)
        self._counts[node] = count
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """PyYAML's, which would let the last of equal keys win."""
        node = super().compose_mapping_node(anchor)
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag not in (_TEXT_TAG, _MERGE_TAG):
                kind = shown(key.value) if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
                raise _refused(f"a key is {kind}, no text", key.start_mark)
            if key.value in seen and key.tag == _TEXT_TAG:
                first = f"first in line {seen[key.value]}"
                raise _refused(f"the key {shown(key.value)} stands twice, {first}", key.start_mark)
            seen[key.value] = key.start_mark.line + 1
        return node

    def construct_scales(self, node: yaml.Node) -> list[int]:
        values = self.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
        match = _SCALES.fullmatch(str(values[0])) if len(values) == 1 else None
        if match is None:
            problem = f"could not determine a constructor for the tag {node.tag!r}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        size, start, stop = map(int, match.groups())
        return [int(x * 0.1 * size) for x in range(start, stop)]


# Sets, dates and bytes have no place; a text that looks like a date stays a text.
_SafeLoader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag in {*_PLAIN, None}
}
_SafeLoader.yaml_implicit_resolvers = {
    start: [(tag, form) for tag, form in resolvers if tag in {*_PLAIN, _MERGE_TAG}]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_SafeLoader.add_constructor(_SCALES_TAG, _SafeLoader.construct_scales)


def _refused(problem: str, mark: yaml.Mark) -> _Refused:
    return _Refused(problem=problem, problem_mark=mark)
