"""Static quantisation to int8 by ONNX Runtime, calibrated on pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime import Model


def quantize(source: Path, target: Path, model: Model, pictures: Sequence[Path]) -> None:
    """Writes an ONNX file whose convolutions and products with weights are in int8.

    Weights have a scale for each channel. What forms the result stays in float32: there the
    numbers are few and the thresholds sharp.

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
        nodes_to_exclude=products_of_activations(onnx.load(source)),
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
        extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
    )


def products_of_activations(graph: Any) -> list[str]:
    """The names of products that have no weights, attention's and that of masks among them."""
    weights = {tensor.name for tensor in graph.graph.initializer}
    return [
        node.name
        for node in graph.graph.node
        if node.op_type in ("Conv", "MatMul", "Gemm") and not weights & set(node.input[1:2])
    ]


class _Reader:
    """Feeds of pictures, one after another, as ONNX Runtime asks for them."""

    def __init__(self, model: Model, pictures: Sequence[Path]) -> None:
        self.feeds = map(model.feed, pictures)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next feed; None at the end."""
        return next(self.feeds, None)
