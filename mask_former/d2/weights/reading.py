"""Reading files of weights without running what stands in them.

A pickle is a program: loading one calls whatever functions it names. Here it may name only what
rebuilds arrays, tensors and plain containers, and those names are answered by functions of our own.
"""

import io
import json
import os
import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint.catalog import ModelCatalog
from detectron2.utils.file_io import PathManager

from ..errors import InputError

RECORD_KEY = "mask_former"
"""What a file says of its model stands here, see ``record``; other programs ignore it."""

_UNDECODABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
# PyTorch tells the name in the midst of its advice.
_REFUSED_BY_TORCH = re.compile(r"GLOBAL (\S+) (?:was not|whose)")
_DTYPE = re.compile("[biufc][0-9]{1,2}")


def read_weights(file: str, *, trusted: bool = False) -> dict[str, Any]:
    """A checkpoint in Detectron2's form, from a file of any kind that the field uses.

    Args:
        file: ``.safetensors``, ``.pkl`` (model zoo, ImageNet backbone, Caffe2), or what
            ``torch.save`` wrote.
        trusted: let the file run whatever it names, as a plain ``pickle.load`` does.

    Returns:
        ``model``, arrays or tensors by name, and what else the file has; above all
        ``matching_heuristics`` if names must be matched by their ends.

    Raises:
        InputError: the file is no such file, or names something that weights do not need.
    """
    _refuse_what_a_download_leaves(file)
    with _naming(file):
        read = _read_safetensors if file.endswith(".safetensors") else _read_torch
        content = (_read_pickle if file.endswith(".pkl") else read)(file, trusted)
        checkpoint = _checkpoint(content) if isinstance(content, dict) else {"model": content}
    _check_weights(file, checkpoint["model"])
    return checkpoint


def fetch_weights(path: str) -> str:
    """The file on this disk that a path, with ``~``, or an address names, fetched if need be.

    Raises:
        InputError: there is none, or it cannot be fetched.
    """
    path = os.path.expanduser(path)
    _check_address(path)
    if "://" not in path and not os.path.isfile(path):
        raise Unreadable(f"no weights at {path}; mend MODEL.WEIGHTS, or fetch the file first")
    try:
        return PathManager.get_local_path(path)
    except OSError as error:
        raise Unreadable(f"cannot read the weights {path}: {error}; mend MODEL.WEIGHTS") from error


def read_entry_of_record(file: str) -> Any:
    """What a file says of its model, without reading the weights; None: it says nothing.

    Raises:
        InputError: as :func:`read_weights`.
    """
    with _naming(file):
        if file.endswith(".safetensors"):
            with _safetensors(file) as content:
                return _record_in_header(content.metadata() or {})
        with open(file, "rb") as stream:
            if stream.read(2) != b"PK":  # no zip file: older than any that has one
                return None
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        return content.get(RECORD_KEY) if isinstance(content, dict) else None


def _refuse_what_a_download_leaves(file: str) -> None:
    """Names the files that stand for one that was not fetched, which say so in their first line."""
    with open(file, "rb") as stream:
        start = stream.read(512).lstrip().lower()
    reason = ""
    if not start:
        reason = "it is empty; fetch it again"
    elif start.startswith(b"version https://git-lfs"):
        reason = "it is a pointer of git-lfs; fetch the file itself with `git lfs pull`"
    elif start.startswith((b"<!doctype", b"<html", b"<?xml")):
        reason = "it is a page of a web server; fetch the file itself"
    if reason:
        raise Unreadable(f"cannot read the weights {file}: {reason}")


def _check_address(path: str) -> None:
    """Refuses an address that Detectron2 has no way to fetch, such as ``s3://`` at first."""
    scheme, separator, _ = path.partition("://")
    if separator and not path.startswith(tuple(PathManager._path_handlers)):
        known = ", ".join(sorted(p for p in PathManager._path_handlers if p.endswith("://")))
        raise InputError(
            f"MODEL.WEIGHTS is {path}, but Detectron2 cannot fetch {scheme}://; fetch the file "
            f"first, give an address of {known}, or register a handler with Detectron2's "
            "PathManager, for s3:// iopath's S3PathHandler, which needs the package boto3"
        )
    if scheme == "catalog":
        try:
            ModelCatalog.get(path.removeprefix("catalog://"))
        except RuntimeError as error:
            raise InputError(f"MODEL.WEIGHTS is {path}: {error}; give a file") from error


@contextmanager
def _safetensors(file: str) -> Iterator[Any]:
    """The open file, of which nothing is read yet but the header."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise InputError(
            f"reading {file} needs safetensors; install it with `pip install safetensors`"
        ) from error
    try:
        with safe_open(file, framework="pt") as content:
            yield content
    except SafetensorError as error:
        raise Unreadable(_unreadable(file, error)) from error


def _record_in_header(metadata: dict[str, str]) -> Any:
    return json.loads(metadata.get(RECORD_KEY, "null"))


def _read_safetensors(file: str, trusted: bool) -> dict[str, Any]:
    with _safetensors(file) as content:
        model = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        metadata = content.metadata() or {}
    by_end = metadata.get("matching_heuristics", "").lower() == "true"
    record = _record_in_header(metadata)
    described = {RECORD_KEY: record} if record is not None else {}
    return {"model": model, "matching_heuristics": by_end, **described}


def _read_pickle(file: str, trusted: bool) -> Any:
    unpickler = pickle.Unpickler if trusted else _WeightsUnpickler
    with open(file, "rb") as stream:
        return unpickler(stream, encoding="latin1").load()  # Python 2 wrote the oldest


def _read_torch(file: str, trusted: bool) -> Any:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as parts:  # torch itself writes check sums and reads none
            if broken := parts.testzip():
                raise zipfile.BadZipFile(f"the check sum of {broken} is wrong")
    return torch.load(file, map_location="cpu", weights_only=not trusted)


def _checkpoint(content: dict[str, Any]) -> dict[str, Any]:
    """Names the weights ``model``, wherever the tool that wrote the file put them."""
    if "model" in content:
        return content
    if "model_state" in content:  # pycls
        model = content["model_state"]
        kept = {name: model[name] for name in model if not name.endswith("num_batches_tracked")}
        return {"model": kept, "__author__": "pycls", "matching_heuristics": True}
    blobs = content.get("blobs")  # Caffe2; its ImageNet models have none
    blobs = blobs if isinstance(blobs, dict) else content
    if any(isinstance(value, np.ndarray) for value in blobs.values()):
        model = {name: blobs[name] for name in blobs if not name.endswith("_momentum")}
        return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}
    return {"model": content}


def _check_weights(file: str, model: Any) -> None:
    wrong = f"is a {type(model).__name__}" if not isinstance(model, dict) else ""
    for name, value in model.items() if not wrong else ():
        if not isinstance(name, str) or not isinstance(value, np.ndarray | torch.Tensor):
            wrong = f"has a {type(value).__name__} under {name!r}"
    if wrong or not model:
        raise InputError(
            f"{file} {wrong or 'is empty'}, but weights are arrays or tensors by name; give "
            "another file"
        )


class Unreadable(InputError):
    """A file is missing, torn, or in another format."""


class _Refused(Exception):
    """A file names a global that weights do not need."""


@contextmanager
def _naming(file: str) -> Iterator[None]:
    """Turns whatever reading raises into one sentence about the file."""
    try:
        yield
    except InputError:
        raise
    except _Refused as error:
        raise InputError(_refusal(file, str(error))) from error
    except _UNDECODABLE as error:
        named = _REFUSED_BY_TORCH.search(str(error))
        if named is not None:
            raise InputError(_refusal(file, named[1])) from error
        raise Unreadable(_unreadable(file, error)) from error


def _refusal(file: str, name: str) -> str:
    return (
        f"{file} names {name}, which weights do not need and which could run anything; nothing of "
        "it was run. Get the weights from another source, or, if you trust whoever made the file, "
        "give --trust-weights"
    )


def _unreadable(file: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return (
        f"cannot read the weights {file} ({reason}): it is truncated or in another format; fetch "
        "it again, or give another file"
    )


class _Dtype:
    """What a pickle says of a dtype, of which only the numbers' are accepted.

    NumPy's own would believe a file that calls bytes of it pointers to objects.
    """

    def __init__(self, code: str, *_: Any) -> None:
        if not _DTYPE.fullmatch(code):
            raise _Refused(f"numpy.dtype({code!r})")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that fills itself from a pickle, with a dtype of ours."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, is_fortran, data = state[-4:]
        native = _numbers(data, dtype)
        super().__setstate__((1, shape, native.dtype, is_fortran, native.tobytes()))


def _numbers(data: bytes | str, dtype: Any) -> np.ndarray:
    """The numbers [n] in bytes, in the byte order of this machine, as PyTorch wants them."""
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("an array without a dtype")
    return np.frombuffer(_encode(data), dtype.dtype).astype(dtype.dtype.newbyteorder("="))


def _reconstruct(*_: Any) -> _Array:
    return _Array((0,), np.int8)


def _from_buffer(data: bytes, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    flat = _numbers(data, dtype)
    if axes is not None:
        return flat.reshape(shape).transpose(axes)
    return flat.reshape(shape, order=order)


def _encode(data: bytes | str, *_: Any) -> bytes:
    """How protocols before 3 write bytes, always as Latin-1."""
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("a tensor without a storage")
    flat = torch.tensor([], dtype=storage.dtype).set_(storage)
    # The view is of a copy of the elements, so that no size can reach beyond them.
    return flat.as_strided(tuple(size), tuple(stride), offset).clone()


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch", "Size"): tuple,
    **{
        (f"numpy.{core}.{module}", name): function  # NumPy 2 renamed its core
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", lambda dtype, data: _numbers(data, dtype)[0]),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (set, frozenset, bytes, bytearray, complex)
    },
}


class _WeightsUnpickler(pickle.Unpickler):
    """Knows only what rebuilds arrays, tensors and plain containers."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """The answer of ours to a global that the file names."""
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module, name]
