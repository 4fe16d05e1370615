"""Static quantisation to int8 by ONNX Runtime, calibrated on pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime import Model


def quantize(source: Path, target: Path, model: Model, pictures: Sequence[Path]) -> None:
    """Writes an ONNX file whose convolutions and products with weights are in int8.

    Weights have a scale for each channel. What forms the result stays in float32, as there the
    numbers are few and the thresholds sharp, and so does what :func:`sensitive` names.

    Args:
        source: the file in float32.
        target: the file to write.
        model: of the source; it prepares the pictures.
        pictures: files that show what the model will see; some dozens.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        str(source),  # whose shapes it infers first
        str(target),
        _Reader(model, pictures),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        nodes_to_exclude=sensitive(onnx.load(source)),
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
        extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
    )


def sensitive(graph: Any) -> list[str]:
    """The names of what loses much in int8 and would gain little.

    Products that have no weights, attention's and that of masks among them; the first
    convolution, which sees the picture's own numbers; and convolutions of channels one by one, as
    a MobileNet has: their ranges differ widely, and an activation has one scale for all channels.
    """
    nodes = [node for node in graph.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    first = next((node.name for node in nodes if node.op_type == "Conv"), None)

    def is_sensitive(node: Any) -> bool:
        weight = weights.get(node.input[1])
        if weight is None or node.name == first:
            return True
        return node.op_type == "Conv" and weight.dims[1] == 1

    return [node.name for node in nodes if is_sensitive(node)]


class _Reader:
    """Feeds of pictures, one after another, as ONNX Runtime asks for them."""

    def __init__(self, model: Model, pictures: Sequence[Path]) -> None:
        self.feeds = map(model.feed, pictures)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next feed; None at the end."""
        return next(self.feeds, None)
