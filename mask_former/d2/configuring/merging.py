"""Merging of YAML files and of the command line into a configuration: runs no code, tells faults.

Detectron2 merges; what we add is a reader that runs no code, and errors that name the place.
"""

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml
from detectron2.config import CfgNode
from fvcore.common.config import BASE_KEY

from ..errors import InputError, did_you_mean
from .keys import KEYS
from .rules import shown
from .yaml_reading import FETCHED, YamlFile, parse_yaml, read_yaml

_MAX_FILES = 50
_VERSIONS = (1, 2)
# What yacs and Detectron2 raise on values that they do not take; the last two are Python's on a
# text that they have it read as an expression.
_REFUSALS = (
    AssertionError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    RecursionError,
    MemoryError,
)


def merge_yaml(cfg: CfgNode, path: str) -> dict[str, str]:
    """Merge a YAML file with its ``_BASE_`` files, as ``cfg.merge_from_file`` does, but safely.

    Args:
        cfg: changed in place.
        path: the file.

    Returns:
        By dotted key, the file and the line where the value was read.

    Raises:
        InputError: a file is missing or no YAML, carries a Python tag other than the known list
            of scales, or has a key or a type of value that the configuration does not know.
    """
    read: list[tuple[str, YamlFile]] = []
    _read_with_bases(path, (), read)
    files = dict(read)
    places = _places(files)

    class SafeNode(CfgNode):
        @classmethod
        def _open_cfg(cls, filename: str) -> io.StringIO:
            content = _with_floats(files[filename].content, cfg)
            return io.StringIO(yaml.safe_dump(content, sort_keys=False))

    merged = SafeNode(cfg)
    with _telling_faults(cfg, path, files):
        merged.merge_from_file(path, allow_unsafe=False)
    plain = type(cfg)(merged)
    cfg.clear()
    cfg.update(plain)
    return places


def merge_text(cfg: CfgNode, text: str, source: str) -> None:
    """Merge YAML that stands alone, as a checkpoint has it, as safely as :func:`merge_yaml`.

    Args:
        cfg: changed in place.
        text: without ``_BASE_``, which would have a file opened.
        source: where the text is from, for errors.

    Raises:
        InputError: as :func:`merge_yaml`.
    """
    file = parse_yaml(text, source, "configuration")
    if BASE_KEY in file.content:
        raise InputError(f"{source}: {BASE_KEY} names another file; here all keys stand in one")
    with _telling_faults(cfg, source, {source: file}):
        cfg.merge_from_other_cfg(CfgNode(_with_floats(file.content, cfg)))


@contextmanager
def _telling_faults(cfg: CfgNode, path: str, files: dict[str, YamlFile]) -> Iterator[None]:
    """Names the file, the line and the key of what yacs and Detectron2 refuse."""
    try:
        yield
    except _REFUSALS as error:
        message = " ".join(map(str, error.args))
        if unknown := re.fullmatch("Non-existent config key: (.*)", message, re.DOTALL):
            place = _places(files).get(unknown[1], path)
            raise InputError(_unknown_key(cfg, unknown[1], place)) from error
        for name, file in files.items():
            for key, value in _flat(file.content):
                if not _fits(value, _default(cfg, key)):
                    place = f"{name}, line {file.lines[key]}"
                    raise InputError(_wrong_kind(cfg, key, value, place)) from error
        raise InputError(f"{path}: {message}; mend the file") from error


def _places(files: dict[str, YamlFile]) -> dict[str, str]:
    """By dotted key, the file and the line where it was read; base files give way."""
    return {
        key: f"{name}, line {line}"
        for name, file in reversed(files.items())
        for key, line in file.lines.items()
    }


def merge_opts(cfg: CfgNode, opts: Sequence[Any]) -> None:
    """Merge ``KEY VALUE`` pairs of the command line.

    Args:
        cfg: changed in place.
        opts: keys and values in turn; a value is text, as YAML has it, or of its own type.

    Raises:
        InputError: a key or a type of value that the configuration does not know, or a key
            without a value.
    """
    if len(opts) % 2:
        raise InputError(f"command line: {opts[-1]!r} has no partner; give KEY VALUE pairs")
    known = set(_keys(cfg))
    for key, given in zip(opts[::2], opts[1::2], strict=True):
        if key not in known:
            raise InputError(_unknown_key(cfg, key, "command line"))
        try:
            value = _decoded(given)
            as_float = _with_floats(value, _default(cfg, key))
            cfg.merge_from_list([key, given if as_float is value else as_float])
        except _REFUSALS as error:
            raise InputError(_wrong_kind(cfg, key, given, "command line")) from error


def _read_with_bases(
    filename: str, above: tuple[str, ...], read: list[tuple[str, YamlFile]]
) -> None:
    """Reads a file and those that it is based on, as fvcore will ask for them by name.

    Args:
        filename: of the file.
        above: the files that are based on it.
        read: gets the files, as often as fvcore will ask for them.
    """
    if filename in above:
        raise InputError(
            f"{above[-1]}: _BASE_ is {filename}, which is itself based on this file; break the ring"
        )
    if len(read) >= _MAX_FILES:
        raise InputError(f"{above[0]} is based on more than {_MAX_FILES} files; merge some")
    content, lines = read_yaml(filename)
    _check_version(filename, content)
    read.append((filename, YamlFile(_anchored(content, filename), lines)))
    if "_BASE_" not in content:
        return
    named = content["_BASE_"]
    bases = named if isinstance(named, list) else [named]
    if not bases or not all(isinstance(base, str) and base for base in bases):
        raise InputError(
            f"{filename}, line {lines['_BASE_']}: _BASE_ is {shown(named)}; give the path of "
            "a YAML file, or a list of them"
        )
    for base in map(os.path.expanduser, bases):
        beside = "" if base.startswith(("/", *FETCHED)) else os.path.dirname(filename)
        _read_with_bases(os.path.join(beside, base), (*above, filename), read)


def _check_version(filename: str, content: dict[str, Any]) -> None:
    version = content.get("VERSION", _VERSIONS[-1])
    if type(version) is not int or version not in _VERSIONS:
        raise InputError(f"{filename}: VERSION is {shown(version)}; give 2, Detectron2's form")


def _anchored(content: dict[str, Any], filename: str) -> dict[str, Any]:
    """The content with the paths of descriptions of data sets that lie beside the file."""
    section = content.get("DATASETS")
    if isinstance(section, dict) and isinstance(paths := section.get("DESCRIPTIONS"), list):
        beside = [os.path.join(os.path.dirname(filename), str(path)) for path in paths]
        pairs = zip(paths, beside, strict=True)
        section["DESCRIPTIONS"] = [
            os.path.abspath(file) if os.path.isfile(file) else path for path, file in pairs
        ]
    return content


def _flat(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values below a node by dotted key, sections included."""
    for name, value in node.items():
        yield f"{prefix}{name}", value
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")


def _keys(node: CfgNode) -> list[str]:
    return [key for key, _ in _flat(node)]


def _default(cfg: CfgNode, key: str) -> Any:
    """What a configuration holds under a dotted key; None: it does not know it."""
    node: Any = cfg
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _with_floats(value: Any, default: Any) -> Any:
    """The value, where a whole number stands for one that has a fraction by default: as such."""
    if isinstance(value, dict):
        inner = default if isinstance(default, dict) else {}
        return {name: _with_floats(v, inner.get(name)) for name, v in value.items()}
    is_whole = type(value) is int and isinstance(default, float)
    return float(value) if is_whole and abs(value) < 2**1023 else value


def _decoded(value: Any) -> Any:
    """What yacs makes of a value, which it may have Python read; a text where it fails."""
    try:
        return CfgNode._decode_cfg_value(value)
    except _REFUSALS:
        return value


def _fits(value: Any, default: Any) -> bool:
    """Whether yacs takes a value of a file in the place of a default."""
    if isinstance(value, dict) or isinstance(default, dict):
        return isinstance(value, dict) and (default is None or isinstance(default, dict))
    value = _decoded(value)
    kinds = {list if isinstance(v, tuple) else type(v) for v in (value, default)}
    return len(kinds) == 1 or value is None or default is None


def _wrong_kind(cfg: CfgNode, key: str, value: Any, place: str) -> str:
    default = _default(cfg, key)
    if isinstance(default, dict):
        return (
            f"{place}: {key} is {shown(value)}, but it is a section; give one of its keys, such as "
            f"{key}.{next(iter(default))}"
        )
    if key in KEYS:
        remedy = f"give {KEYS[key].rule.allowed}"
    else:
        remedy = f"give a {type(default).__name__}, such as {shown(default)}"
    return f"{place}: {key} is {shown(value)}; {remedy}"


def _unknown_key(cfg: CfgNode, key: str, place: str) -> str:
    if _default(cfg, key) is not None:  # `MODEL.DEVICE: cpu`, which yacs takes for a name
        section, _, name = key.rpartition(".")
        return f"{place}: {key} is written as one name; write {name} below {section}, indented"
    name = key if re.fullmatch(r"[\w.]+", key) else shown(key)
    hint = did_you_mean(key, _keys(cfg)) or "; docs/KEYS.md lists those that are read"
    return f"{place}: unknown configuration key {name}{hint}"
