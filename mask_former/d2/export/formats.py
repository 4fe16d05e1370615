"""Writes a graph in the formats of ONNX Runtime, PyTorch and OpenVINO, and loads such files."""

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.fx.experimental._config
from torch.export import Dim, ExportedProgram

from ...modeling.swin import SwinStage
from ...runtime import METADATA_KEY, Arrays, Information, Model, load
from ..errors import InputError
from .graph import OUTPUTS, ExportedModel

INPUTS = ("image", "height", "width")
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "openvino": ".xml"}
"""The formats, and how the names of their files end."""
_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch": (),
    "openvino": ("onnx", "onnxscript", "openvino"),
}
_OPSET = 18  # the first whose Resize and ScatterElements have all that the graph needs


class Request(NamedTuple):
    """What is to be written."""

    format: str
    size: tuple[int, int] | None
    """Height and width of pictures as the network takes them; None: any."""
    half: bool = False
    """Weights in float16."""


def check_packages(format_: str) -> None:
    """Refuses a format whose packages are missing, by their names."""
    missing = [name for name in _PACKAGES[format_] if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--format {format_} needs {', '.join(missing)}; install with "
            f"`pip install 'mask_former[{'openvino' if format_ == 'openvino' else 'export'}]'`"
        )


def write(graph: ExportedModel, info: Information, request: Request, path: Path) -> None:
    """Writes a graph to a file; of OpenVINO's format the weights beside it, in a .bin.

    Raises:
        InputError: a package is missing, or the model has no such result.
    """
    check_packages(request.format)
    if not graph.per_pixel and graph.task == "instance" and not graph.model.inference.thing_ids:
        raise InputError(
            "the data set of DATASETS.TRAIN[0] has no things, so that there are no instances to "
            "give; name another, or another --task"
        )
    program = trace(graph, request.size)
    if request.format == "torch":
        torch.export.save(program, path, extra_files={METADATA_KEY: info.write()})
    elif request.format == "onnx":
        write_onnx(program, graph, info, path)
    else:
        _write_openvino(program, graph, info, request.half, path)


def trace(graph: ExportedModel, size: tuple[int, int] | None) -> ExportedProgram:
    """The graph for a batch of any length, and for results of any size."""
    # A picture of almost as much padding as there can be, so that cells that may be padding are,
    # and of sides that nothing else has, in the coarsest map either: what is equal or one here
    # would be taken to be so always. Of a Swin transformer the coarsest map has several windows.
    windows = [m.window for m in graph.model.backbone.modules() if isinstance(m, SwinStage)]
    step = max(graph.divisor, 32)
    least = step * max(windows, default=1)
    height, width = size or (least + step + 11, least + 2 * step + 13)
    sides = {} if size else {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    dynamic = {"image": {0: Dim.DYNAMIC, **sides}, "height": Dim.DYNAMIC, "width": Dim.DYNAMIC}
    image = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    # Without, sizes of windows are compared with numbers that hold for this picture alone.
    options: Any = torch.fx.experimental._config  # whose `patch` torch adds as it is imported
    with torch.no_grad(), _quiet(), options.patch(backed_size_oblivious=bool(windows)):
        return torch.export.export(graph, (image, 101, 133), dynamic_shapes=dynamic, strict=False)


def write_onnx(
    program: ExportedProgram, graph: ExportedModel, info: Information, path: Path
) -> None:
    """As ONNX, with the information in its ``metadata_props``."""
    with _quiet():
        converted = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS[graph.kind]),
            opset_version=_OPSET,
            verbose=False,
        )
    assert converted is not None
    converted.model.metadata_props[METADATA_KEY] = info.write()
    converted.save(path)


def _write_openvino(
    program: ExportedProgram, graph: ExportedModel, info: Information, half: bool, path: Path
) -> None:
    import openvino

    # By way of ONNX, whose operators it knows best.
    onnx = path.with_suffix(".onnx")
    write_onnx(program, graph, info, onnx)
    converted = openvino.convert_model(onnx)
    onnx.unlink()
    converted.set_rt_info(info.write(), METADATA_KEY)
    openvino.save_model(converted, path, compress_to_fp16=half)


def load_exported(path: Path, format_: str, threads: int = 0) -> Model:
    """A file in the runtime that it is for."""
    check_packages(format_)
    if format_ == "onnx":
        return load(path, ["CPUExecutionProvider"], threads)
    return (_load_torch if format_ == "torch" else _load_openvino)(path)


def _load_torch(path: Path) -> Model:
    files = {METADATA_KEY: ""}
    # The guards would refuse pictures that need no padding, which the graph serves all the same.
    module = torch.export.load(path, extra_files=files).module(check_guards=False)

    def run(feed: Arrays) -> Sequence[np.ndarray]:
        image, height, width = (feed[name] for name in INPUTS)
        with torch.no_grad():
            found = module(torch.from_numpy(image), int(height), int(width))
        return [tensor.numpy() for tensor in found]

    return Model(run, Information.read(files[METADATA_KEY]))


def _load_openvino(path: Path) -> Model:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    info = Information.read(model.get_rt_info(METADATA_KEY).astype(str))
    # OpenVINO would compute in bfloat16 where the processor can.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    taken = {name for port in compiled.inputs for name in port.get_names()}

    def run(feed: Mapping[str, Any]) -> Sequence[np.ndarray]:
        given = {name: array for name, array in feed.items() if name in taken}
        results = compiled(given)
        return [results[port] for port in compiled.outputs]

    return Model(run, info)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own progress and its warnings about its own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
