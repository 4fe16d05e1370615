"""Converts an ImageNet ResNet of torchvision into a backbone file of Detectron2.

    mask_former convert-torchvision resnet101-63fe2227.pth R-101.pkl

The configurations of ResNet-101 expect R-101.pkl in the working directory.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from ..d2.data.preparing import telling_errors
from ..d2.errors import InputError
from ..d2.weights.converting import Weights, convert_file, parse_args

# In this order; each is a pattern and what takes its place.
RENAMINGS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^(?!.*layer)", "stem."),
    (r"layer([1-4])", lambda found: f"res{int(found[1]) + 1}"),
    (r"bn([1-3])", r"conv\1.norm"),
    (r"downsample\.0", "shortcut"),
    (r"downsample\.1", "shortcut.norm"),
)
CLASSIFIER = "stem.fc."


def renamed(name: str) -> str:
    """The name in Detectron2's ResNet of a parameter of torchvision's."""
    for pattern, new in RENAMINGS:
        name = re.sub(pattern, new, name)
    return name


def convert(weights: Weights) -> Weights:
    """Arrays under the names of Detectron2's ResNet.

    Raises:
        InputError: these are not the weights of a ResNet of torchvision.
    """
    if "conv1.weight" not in weights or "layer1.0.conv1.weight" not in weights:
        raise InputError(
            f"these are no weights of a ResNet of torchvision: {', '.join([*weights][:3])} ... are "
            "the names, but conv1.weight and layer1.0.conv1.weight are expected"
        )
    return {renamed(name): np.asarray(value) for name, value in weights.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Reads, converts, writes; prints every name and what the backbone has no place for."""
    args = parse_args(__doc__, argv)
    with telling_errors():
        weights, converted = convert_file(args, convert, author="torchvision")
    for old, new in zip(weights, converted, strict=True):
        print(f"{old} -> {new}")
    leftover = [name for name in converted if name.startswith(CLASSIFIER)]
    print(f"left over, as a backbone has no classifier: {', '.join(leftover) or 'nothing'}")
