"""Files of weights of every kind, and files that would run something."""

import io
import os
import pickle
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mask_former.d2.errors import InputError
from mask_former.d2.weights.reading import fetch_weights, read_weights

ARRAYS = {
    "plain": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "strided": np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
    "big_endian": np.arange(3, dtype=">i4"),
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 3), dtype=np.float16),
    "bool": np.array([True, False]),
}
TENSORS = {
    "half": torch.arange(6.0).half().reshape(2, 3).T,
    "slice": torch.arange(10)[2:9:3],
    "parameter": torch.nn.Parameter(torch.ones(3)),
    "bfloat16": torch.ones(2, dtype=torch.bfloat16),
}


def write_pickle(path: Path, content: Any, protocol: int = 4) -> str:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return str(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_tensors_of_every_protocol(tmp_path, protocol):
    model = OrderedDict({**ARRAYS, **TENSORS})
    others = {"lr": np.float64(0.5), "ids": {1, 2}, "history": [(1, "a"), {"b": None}]}
    path = write_pickle(tmp_path / "w.pkl", {"model": model, "__author__": "x", **others}, protocol)
    content = read_weights(path)
    for name, array in ARRAYS.items():
        assert torch.equal(torch.from_numpy(content["model"][name]), as_tensor(array))
    for name, tensor in TENSORS.items():
        assert torch.equal(content["model"][name], tensor)
    assert content["model"].keys() == model.keys()
    assert {key: content[key] for key in others} == others


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array.astype(array.dtype.newbyteorder("=")))


def python2_pickle(name: str, values: list[float]) -> bytes:
    """What Python 2 wrote for a model of one array, opcode by opcode."""
    data = struct.pack(f"<{len(values)}f", *values)

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n"
    array += b"K\x00\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"f4") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array += (
        b"(K\x01" + b"K" + bytes([len(values)]) + b"\x85" + dtype + b"\x89" + text(data) + b"tb"
    )
    weights = b"}" + text(name.encode()) + array + b"s"
    return b"\x80\x02}" + text(b"model") + weights + b"s" + text(b"__author__") + text(b"x") + b"s."


def test_python_2(tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(python2_pickle("conv1.weight", [1.5, -200.25]))
    assert read_weights(str(path))["model"]["conv1.weight"].tolist() == [1.5, -200.25]


def test_metadata_of_a_state_dict_stays(tmp_path):
    weights = torch.nn.Linear(2, 2).state_dict()
    path = write_pickle(tmp_path / "w.pkl", {"model": weights, "__author__": "x"})
    assert read_weights(path)["model"]._metadata == {"": {"version": 1}}


@pytest.mark.parametrize("blobs", [True, False])
def test_caffe2(tmp_path, blobs):
    weights = {"conv1_w": np.ones(2), "conv1_w_momentum": np.ones(2)}
    path = write_pickle(tmp_path / "w.pkl", {"blobs": weights} if blobs else weights)
    content = read_weights(path)
    assert list(content["model"]) == ["conv1_w"]
    assert content["matching_heuristics"]
    assert content["__author__"] == "Caffe2"


def test_pycls(tmp_path):
    weights = {"conv.weight": torch.ones(2), "bn.num_batches_tracked": torch.tensor(3)}
    torch.save({"model_state": weights, "epoch": 3}, tmp_path / "w.pyth")
    content = read_weights(str(tmp_path / "w.pyth"))
    assert list(content["model"]) == ["conv.weight"]
    assert content["matching_heuristics"]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_torch_files(tmp_path, wrapped, zipped):
    weights = {"a": torch.arange(3)}
    content = {"model": weights, "iteration": 3} if wrapped else weights
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = read_weights(str(tmp_path / "w.pth"))
    assert torch.equal(found["model"]["a"], torch.arange(3))
    assert found.get("iteration") == (3 if wrapped else None)


@pytest.mark.parametrize("metadata", [None, {"matching_heuristics": "True"}])
def test_safetensors(tmp_path, metadata):
    save_file({"a": torch.arange(3)}, tmp_path / "w.safetensors", metadata)
    content = read_weights(str(tmp_path / "w.safetensors"))
    assert torch.equal(content["model"]["a"], torch.arange(3))
    assert content["matching_heuristics"] == (metadata is not None)


def test_without_safetensors(tmp_path, monkeypatch):
    save_file({"a": torch.arange(3)}, tmp_path / "w.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match=r"w\.safetensors needs safetensors.*pip install"):
        read_weights(str(tmp_path / "w.safetensors"))


class Calls:
    """Whose pickle calls a function."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.called


class Named:
    """Whose pickle asks for an object of another class, then gives it a state."""

    def __init__(self, function: Callable, arguments: tuple, state: Any) -> None:
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> tuple:
        return self.reduced


def hostile(place: str, trap: Calls) -> Any:
    """A checkpoint with a trap somewhere in it."""
    weights: dict[str, Any] = {"a": torch.ones(2)}
    if place == "array":
        weights["b"] = np.array([{"deep": [trap]}], dtype=object)
    elif place == "container":
        weights["b"] = [({"deep": (trap,)},)]
    elif place == "alone":
        return trap
    return {"model": weights, "__author__": trap if place == "beside" else "x"}


@pytest.mark.parametrize("place", ["alone", "beside", "container", "array"])
@pytest.mark.parametrize("kind", ["pkl", "pth", "old pth"])
def test_hostile_files_run_nothing(tmp_path, place, kind):
    trace = tmp_path / "ran"
    trap = Calls(os.system, f"touch {trace}")
    path = tmp_path / f"w.{kind.split()[-1]}"
    if kind == "pkl":
        write_pickle(path, hostile(place, trap))
    else:
        torch.save(hostile(place, trap), path, _use_new_zipfile_serialization=kind == "pth")
    with pytest.raises(InputError) as caught:
        read_weights(str(path))
    # Arrays of objects are refused before what is in them, and by PyTorch arrays of any kind.
    names = ["posix.system"]
    if place == "array":
        cores = ("numpy.core", "numpy._core")
        names = ["numpy.dtype('O8')", *(f"{core}.multiarray._reconstruct" for core in cores)]
    told = str(caught.value)
    assert told.startswith(tuple(f"{path} names {name}, which weights do not" for name in names))
    assert "--trust-weights" in told
    assert not trace.exists()


@pytest.mark.parametrize(
    ("trap", "name"),
    [
        (Calls(eval, "1"), "builtins.eval"),
        (Calls(getattr, 1, "real"), "builtins.getattr"),
        (Calls(subprocess.Popen, ["true"]), "subprocess.Popen"),
        (Calls(np.load, "x.npy"), "numpy.load"),
        (Calls(torch.load, "x.pth"), "torch.serialization.load"),
        (Calls(os.path.join, "a"), "posixpath.join"),
    ],
)
def test_other_globals(tmp_path, trap, name):
    path = write_pickle(tmp_path / "w.pkl", {"model": {"a": trap}})
    with pytest.raises(InputError, match=rf"names {name}, which weights do not need"):
        read_weights(path)


def test_a_trap_in_the_bytes_of_a_tensor(tmp_path):
    """Tensors in a pickle hold a torch file of their own."""
    trace = tmp_path / "ran"
    inner = io.BytesIO()
    trap = Calls(os.system, f"touch {trace}")
    torch.save(trap, inner, _use_new_zipfile_serialization=False)
    load = torch.storage._load_from_bytes
    path = write_pickle(tmp_path / "w.pkl", {"model": {"a": Calls(load, inner.getvalue())}})
    with pytest.raises(InputError, match=r"w\.pkl names posix\.system"):
        read_weights(path)
    assert not trace.exists()


def test_bytes_are_never_taken_for_objects(tmp_path):
    """A dtype with a state of its own could make NumPy take numbers for addresses."""
    state = (3, "|", None, ("f",), {"f": (np.dtype("O"), 0)}, 8, 1, 0)
    lie = Named(np.dtype, ("V8",), state)
    array = Named(
        np.ones(1).__reduce__()[0], np.ones(1).__reduce__()[1], (1, (1,), lie, False, b"\xff" * 8)
    )
    path = write_pickle(tmp_path / "w.pkl", {"model": {"a": array}})
    with pytest.raises(InputError, match=r"names numpy\.dtype\('[OV]8'\)"):
        read_weights(path)


def test_a_tensor_stays_in_its_storage(tmp_path):
    rebuild, arguments = torch.arange(4.0).__reduce_ex__(2)
    reaching = (arguments[0], 0, (1000,), (1,), *arguments[4:])
    path = write_pickle(tmp_path / "w.pkl", {"model": {"a": Calls(rebuild, *reaching)}})
    with pytest.raises(InputError, match=r"cannot read the weights .*w\.pkl .*out of bounds"):
        read_weights(path)


@pytest.mark.parametrize("extension", ["pkl", "pth"])
def test_trusted_files_run(tmp_path, extension):
    trace = tmp_path / "ran"
    content = {"model": {"a": np.ones(2)}, "x": Calls(os.system, f"touch {trace}")}
    path = tmp_path / f"w.{extension}"
    if extension == "pkl":
        write_pickle(path, content)
    else:
        torch.save(content, path)
    assert read_weights(str(path), trusted=True)["model"]["a"].tolist() == [1, 1]
    assert trace.exists()


@pytest.mark.parametrize("extension", ["pkl", "pth", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a file of weights", None])
def test_broken_files(tmp_path, extension, content):
    path = tmp_path / f"w.{extension}"
    if content is None:
        whole = io.BytesIO()
        torch.save({"a": torch.ones(100)}, whole)
        content = whole.getvalue()[:300]
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot read the weights .*w\.{extension}") as caught:
        read_weights(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}}, "is empty, but weights are"),
        ({"model": [1]}, "is a list, but weights are"),
        ([1], "is a list, but weights are"),
        ({"model": {"a": "text"}}, "has a str under 'a'"),
        ({"epoch": 3}, "has a int under 'epoch'"),
    ],
)
def test_no_weights(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_weights(write_pickle(tmp_path / "w.pkl", content))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of git-lfs"),
        (b"\n <!DOCTYPE html><html></html>", "a page of a web server"),
        (b"<?xml version='1.0'?><Error/>", "a page of a web server"),
        (b" \n", "it is empty"),
    ],
)
def test_what_a_download_leaves(tmp_path, content, expected):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read the weights .*: it is .*") as caught:
        read_weights(str(path))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("s3://bucket/w.pth", "Detectron2 cannot fetch s3://; fetch the file first"),
        ("catalog://nothing", "model not present in the catalog: nothing; give a file"),
    ],
)
def test_addresses_that_nobody_knows(address, expected):
    with pytest.raises(InputError, match=f"MODEL.WEIGHTS is {address}.*{expected}"):
        fetch_weights(address)


@pytest.mark.parametrize("content", [{"blobs": None}, {"blobs": {}}, {"model_state": None}])
def test_forms_without_weights(tmp_path, content):
    with pytest.raises(InputError, match=r"w\.pkl"):
        read_weights(write_pickle(tmp_path / "w.pkl", content))
