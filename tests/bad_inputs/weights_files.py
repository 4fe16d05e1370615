"""Files of weights: torn, of other formats, of other models, and with code in them."""

import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mask_former.d2.build.model import build_model
from mask_former.d2.checkpoint import LoadOptions, MaskFormerCheckpointer
from tests.bad_inputs.case import Case
from tests.small_runs import tiny_cfg

CLASSES = "sem_seg_head.predictor.class_embed.weight"
KIND = "file of weights"


class Touch:
    """Pickled, a call that leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def cases(folder: Path) -> Iterator[Case]:
    """Addresses, contents and bytes that are wrong."""
    folder.mkdir(exist_ok=True, parents=True)
    model = build_model(tiny_cfg(folder))
    state = model.state_dict()
    good = folder / "good.pth"
    small = {key: value for key, value in state.items() if value.numel() < 500}
    torch.save({"model": small}, good)
    options = LoadOptions(min_loaded=0)
    yield Case(KIND, "good", partial(load, model, good, options), is_right=True)
    yield Case(KIND, "empty address", partial(load, model, ""), is_right=True)
    for address in (
        "s3://bucket/model.pth",
        "gs://bucket/model.pth",
        "file:///model.pth",
        "http://localhost:9/model.pth",
        "detectron2://no/such/model.pkl",
        "catalog://NoSuchModel",
        "missing.pth",
        str(folder),
        str(folder / "good.pth" / "model.pth"),
    ):
        yield Case(KIND, address.replace(str(folder), "folder"), partial(load, model, address))
    for name, data in files(good.read_bytes()).items():
        (folder / name).write_bytes(data)
        yield Case(KIND, name, partial(load, model, folder / name))
    for name, content in contents(state, folder / "ran").items():
        for suffix in ("pth", "pkl"):
            path = folder / f"{name.replace(' ', '_')}.{suffix}"
            write(path, content)
            yield Case(KIND, path.name, partial(load, model, path))
    assert not (folder / "ran").exists()


def load(model: nn.Module, path: object, options: LoadOptions | None = None) -> None:
    """As an evaluation loads them, and that no code has run."""
    MaskFormerCheckpointer(model, options=options).load(str(path))


def write(path: Path, content: object) -> None:
    """As torch or the model zoo would."""
    if path.suffix == ".pth":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))


def files(good: bytes) -> dict[str, bytes]:
    """By name; ``good`` is what ``torch.save`` has written."""
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    array = io.BytesIO()
    np.savez(array, a=np.zeros(3))
    found: dict[str, bytes] = {}
    for suffix in ("pth", "pkl", "safetensors"):
        found |= {
            f"empty.{suffix}": b"",
            f"lfs.{suffix}": lfs,
            f"page.{suffix}": b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
            f"error.{suffix}": b'<?xml version="1.0"?><Error>AccessDenied</Error>',
            f"text.{suffix}": b"no weights at all\n",
            f"json.{suffix}": b'{"message": "Not Found"}',
            f"jpeg.{suffix}": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(100),
            f"zeros.{suffix}": bytes(1000),
            f"ones.{suffix}": b"\xff" * 1000,
            f"gzip.{suffix}": b"\x1f\x8b\x08\x00" + bytes(100),
        }
    found |= {"array.pth": array.getvalue(), "array.pkl": array.getvalue()}
    found["header.safetensors"] = (2**40).to_bytes(8, "little") + b"{}"
    for share in range(1, 16):
        found[f"truncated{share}.pth"] = good[: len(good) * share // 16]
    random = np.random.RandomState(0)
    for number, place in enumerate(sorted(_stored(good, random))):
        flipped = bytearray(good)
        flipped[place] ^= 1 << random.randint(8)
        found[f"flipped{number}.pth"] = bytes(flipped)
    return found


def _stored(good: bytes, random: np.random.RandomState) -> set[int]:
    """Places in the parts of the archive, not in the padding between them."""
    import zipfile

    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        parts = [p for p in archive.infolist() if p.file_size > 8]
    places = set()
    for part in random.choice(np.array(parts, dtype=object), 40):
        start = good.index(part.filename.encode(), part.header_offset) + len(part.filename)
        start += int.from_bytes(good[part.header_offset + 28 : part.header_offset + 30], "little")
        places.add(start + random.randint(part.file_size))
    return places


def contents(state: dict[str, torch.Tensor], victim: Path) -> dict[str, object]:
    """What is pickled, by name."""
    array = np.zeros(3, np.float32)
    return {
        "nothing": None,
        "number": 5,
        "a text": "weights",
        "list": [torch.zeros(3)],
        "tensor": torch.zeros(3),
        "no weights": {},
        "model none": {"model": None},
        "model list": {"model": [torch.zeros(3)]},
        "model number": {"model": 5},
        "model empty": {"model": {}},
        "model nested": {"model": {"backbone": {"weight": torch.zeros(3)}}},
        "model of numbers": {"model": {"weight": 5}},
        "model of none": {"model": {"weight": None}},
        "number as name": {"model": {1: torch.zeros(3)}},
        "state none": {"model_state": None},
        "state of numbers": {"model_state": {1: torch.zeros(3)}},
        "blobs none": {"blobs": None},
        "blobs number": {"blobs": 5},
        "blobs empty": {"blobs": {}},
        "blobs mixed": {"blobs": {"a": array, "b": None}},
        "blobs numbers as names": {"blobs": {1: array}},
        "classes without dimension": {"model": {**state, CLASSES: torch.tensor(1.0)}},
        "classes empty": {"model": {**state, CLASSES: torch.zeros(0)}},
        "classes of another number": {"model": {**state, CLASSES: torch.zeros(3, 32)}},
        "another model": {"model": {"stem.conv.weight": torch.zeros(3, 3), "fc.bias": array}},
        "another width": {"model": OrderedDict((k, torch.zeros(2, 2)) for k in state)},
        "text as weight": {"model": {**state, CLASSES: "weights"}},
        "array of texts": {"model": {"weight": np.array(["a", "b"])}},
        "array of objects": {"model": {"weight": np.array([None, 1], dtype=object)}},
        "code": Touch(victim),
        "code beside": {"model": dict(state), "note": Touch(victim)},
        "module": nn.Linear(2, 2),
        "path": {"model": {"weight": Path("x")}},
        "function": {"model": {"weight": os.getcwd}},
    }
