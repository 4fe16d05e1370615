"""Merging of YAML files and of the command line into a configuration: runs no code, tells faults.

Detectron2 merges; what we add is a reader that refuses Python tags, and errors that name the place.
"""

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from fvcore.common.config import BASE_KEY

from .errors import InputError, did_you_mean

_SCALES_TAG = "tag:yaml.org,2002:python/object/apply:eval"
# The digits are bounded, so that no file can ask for a list that fills the memory.
_SCALES = re.compile(r"\[int\(x \* 0\.1 \* (\d{1,5})\) for x in range\((\d{1,3}), (\d{1,3})\)\]")


def merge_yaml(cfg: CfgNode, path: str) -> None:
    """Merge a YAML file with its ``_BASE_`` files, as ``cfg.merge_from_file`` does, but safely.

    Args:
        cfg: changed in place.
        path: the file.

    Raises:
        InputError: a file is missing or no YAML, carries a Python tag other than the known list
            of scales, or has a key or a type of value that the configuration does not know.
    """
    contents: dict[str, dict[str, Any]] = {}  # by file, in the order of reading: base files last

    class SafeNode(CfgNode):
        @classmethod
        def _open_cfg(cls, filename: str) -> io.StringIO:
            contents[filename] = _anchored(read_yaml(filename), filename)
            return io.StringIO(yaml.safe_dump(contents[filename], sort_keys=False))

    read_yaml(path)  # Detectron2 itself would only assert that the file is there
    merged = SafeNode(cfg)
    with _telling_faults(cfg, path, contents):
        merged.merge_from_file(path, allow_unsafe=False)
    plain = type(cfg)(merged)
    cfg.clear()
    cfg.update(plain)


def merge_text(cfg: CfgNode, text: str, source: str) -> None:
    """Merge YAML that stands alone, as a checkpoint has it, as safely as :func:`merge_yaml`.

    Args:
        cfg: changed in place.
        text: without ``_BASE_``, which would have a file opened.
        source: where the text is from, for errors.

    Raises:
        InputError: as :func:`merge_yaml`.
    """
    content = _load_yaml(text, source, "configuration")
    if BASE_KEY in content:
        raise InputError(f"{source}: {BASE_KEY} names another file; here all keys stand in one")
    with _telling_faults(cfg, source, {source: content}):
        cfg.merge_from_other_cfg(CfgNode(content))


@contextmanager
def _telling_faults(cfg: CfgNode, path: str, contents: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Names the file and the key of what yacs and Detectron2 refuse."""
    try:
        yield
    except InputError:
        raise
    except (AssertionError, KeyError, ValueError) as error:  # how yacs and Detectron2 refuse
        message = str(error.args[0])
        key = message.rsplit(" ", 1)[-1]  # "... config key: A.B"
        source = next((f for f, content in contents.items() if key in _keys(content)), path)
        unknown = isinstance(error, KeyError)
        sentence = _unknown_key(cfg, key, source) if unknown else f"{source}: {message}"
        raise InputError(sentence) from error


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
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        if key not in known:
            raise InputError(_unknown_key(cfg, key, "command line"))
        try:
            cfg.merge_from_list([key, value])
        except ValueError as error:
            raise InputError(f"command line: {error.args[0]}") from error


class _SafeLoader(yaml.SafeLoader):
    """A safe loader that also knows the one Python expression of the original's files."""

    def construct_scales(self, node: yaml.Node) -> list[int]:
        values = self.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
        match = _SCALES.fullmatch(str(values[0])) if len(values) == 1 else None
        if match is None:
            problem = f"could not determine a constructor for the tag {node.tag!r}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        size, start, stop = map(int, match.groups())
        return [int(x * 0.1 * size) for x in range(start, stop)]


_SafeLoader.add_constructor(_SCALES_TAG, _SafeLoader.construct_scales)


def read_yaml(filename: str, what: str = "configuration") -> dict[str, Any]:
    """The keys of a YAML file, which runs no code.

    Args:
        filename: the file.
        what: its noun in errors.

    Raises:
        InputError: the file is missing, no YAML, or holds something else than keys.
    """
    try:
        with PathManager.open(filename, "r") as file:
            return _load_yaml(file, filename, what)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read the {what} {filename}: {error}; give the path of a YAML file "
            "(--config-file, `_BASE_` in the file that is based on it, DATASETS.DESCRIPTIONS)"
        ) from error


def _load_yaml(text: str | IO[str], source: str, what: str) -> dict[str, Any]:
    try:
        content = yaml.load(text, _SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise InputError(_yaml_problem(source, error)) from error
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{source} holds {content!r}; a {what} is a map of keys")
    return content


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


def _yaml_problem(filename: str, error: yaml.MarkedYAMLError) -> str:
    place = f"{filename}, line {error.problem_mark.line + 1}" if error.problem_mark else filename
    if not isinstance(error, yaml.constructor.ConstructorError):
        return f"{place}: not valid YAML: {error.problem}"
    return (
        f"{place}: {error.problem}; tags that run code are refused. The only one understood is "
        '!!python/object/apply:eval ["[int(x * 0.1 * N) for x in range(A, B)]"]; write out '
        "anything else as a plain value"
    )


def _keys(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """All dotted keys below a node, inner nodes included."""
    for name, value in node.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")


def _unknown_key(cfg: CfgNode, key: str, source: str) -> str:
    return f"{source}: unknown configuration key {key}{did_you_mean(key, list(_keys(cfg)))}"
