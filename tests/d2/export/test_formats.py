"""Files in each format, in the runtime that they are for, against the graph."""

import re

import numpy as np
import pytest
import torch

from mask_former.d2.errors import InputError
from mask_former.d2.export import formats
from mask_former.d2.export.formats import Request, check_packages, load_exported, write
from mask_former.d2.export.graph import ExportedModel
from mask_former.d2.export.quantization import quantize, sensitive
from mask_former.runtime import Information
from tests.d2.export.test_graph import KINDS, SEGMENTS, VALID
from tests.d2.tiny_models import HEAD, MASK_FORMER, SWIN

SIZES = [(75, 109), (64, 64), (40, 130)]
needs_onnx = pytest.mark.skipif(
    any(formats.importlib.util.find_spec(name) is None for name in ("onnxruntime", "onnxscript")),
    reason="needs the packages of the extra `export`",
)
nightly = pytest.mark.nightly


def information(task, size=None):
    return Information(task, ["a", "b", "c"], [[9, 9, 9]] * 3, [1], "RGB", size, 64, 200)


@torch.no_grad()
def assert_same(graph, path, format_, sizes, tolerance=1e-4):
    model = load_exported(path, format_, threads=1)
    for height, width in sizes:
        image = np.random.RandomState(0).randint(0, 256, (1, 3, height, width), np.uint8)
        feed = {"image": image, "height": np.array(51), "width": np.array(47)}
        expected = [x.numpy() for x in graph(torch.from_numpy(image), 51, 47)]
        for a, b in zip(model.run(feed), expected, strict=True):
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            if a.dtype.kind == "f":
                assert np.abs(a - b).max() <= tolerance * np.abs(b).max()
            elif a.ndim > 2:
                assert (a == b).mean() > 0.999
            else:  # areas, in which a pixel on the edge of two segments may count here or there
                assert np.abs(a - b).max() <= 5
    return model


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    for name, packages, extra in (
        ("onnx", "onnx, onnxscript, onnxruntime", "export"),
        ("openvino", "onnx, onnxscript, openvino", "openvino"),
    ):
        said = (
            f"--format {name} needs {packages}; install with `pip install 'mask_former[{extra}]'`"
        )
        with pytest.raises(InputError, match=f"{re.escape(said)}$"):
            check_packages(name)
    check_packages("torch")


@needs_onnx
def test_swin_in_onnx(make, tmp_path):
    """The first two stages, as each block takes its time."""
    names = ["res2", "res3"]
    options = {
        **SWIN,
        "MODEL.SWIN.DEPTHS": [1, 2, 1, 1],
        "MODEL.SWIN.OUT_FEATURES": names,
        f"{HEAD}.IN_FEATURES": names,
        f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "res3",
        f"{MASK_FORMER}.DEC_LAYERS": 1,
    }
    graph = ExportedModel(make(options), "raw").eval()
    path = tmp_path / "m.onnx"
    write(graph, information("raw", [75, 109]), Request("onnx", (75, 109)), path)
    model = assert_same(graph, path, "onnx", SIZES[:1])
    assert model.info == information("raw", [75, 109])


@nightly
@needs_onnx
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_in_onnx(make, tmp_path, kind):
    graph = ExportedModel(make(KINDS[kind]), "semantic").eval()
    write(graph, information("semantic"), Request("onnx", None), tmp_path / "m.onnx")
    assert_same(graph, tmp_path / "m.onnx", "onnx", SIZES)


@nightly
@needs_onnx
@pytest.mark.parametrize("format_", ["onnx", "torch", "openvino"])
@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_every_format(make, tmp_path, format_, task):
    if format_ == "openvino":
        pytest.importorskip("openvino")
    graph = ExportedModel(make({**SEGMENTS, **VALID}), task).eval()
    path = tmp_path / f"m{formats.SUFFIXES[format_]}"
    write(graph, information(task), Request(format_, None), path)
    model = assert_same(graph, path, format_, SIZES, 1e-3)
    assert model.info.task == task


@needs_onnx
def test_what_is_not_in_int8():
    """The first convolution, that of channels one by one, and the product without weights."""
    from onnx import TensorProto, helper

    shapes = {"first": (8, 3, 3, 3), "single": (8, 1, 3, 3), "plain": (8, 8, 1, 1)}
    nodes = [helper.make_node("Conv", [f"{n}_in", n], [f"{n}_out"], n) for n in shapes]
    nodes += [
        helper.make_node("MatMul", ["a", name], [f"{name}_out"], name)
        for name in ("weighted", "masks")
    ]
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, np.zeros(shape).ravel())
        for name, shape in {**shapes, "weighted": (2, 1)}.items()
    ]
    graph = helper.make_model(helper.make_graph(nodes, "g", [], [], weights))
    assert sensitive(graph) == ["first", "single", "masks"]


@nightly
@needs_onnx
def test_int8(make, tmp_path):
    import onnx
    from PIL import Image

    graph = ExportedModel(make({}), "raw").eval()
    write(graph, information("raw"), Request("onnx", None), tmp_path / "m.onnx")
    pictures = []
    for i in range(4):
        pixels = np.random.RandomState(i).randint(0, 256, (70, 90, 3), np.uint8)
        pictures.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(pictures[-1])
    source = load_exported(tmp_path / "m.onnx", "onnx", threads=1)
    quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", source, pictures)
    quantized = load_exported(tmp_path / "q.onnx", "onnx", threads=1)
    for found, expected in zip(
        quantized.tensors(pictures[0]), source.tensors(pictures[0]), strict=True
    ):
        # Random weights have no margins, so that single numbers may be far off.
        assert np.abs(found - expected).mean() < 0.5 * np.abs(expected).mean()
    assert sensitive(onnx.load(tmp_path / "m.onnx"))
    nodes = onnx.load(tmp_path / "q.onnx").graph.node
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) > 10
