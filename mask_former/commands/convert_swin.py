"""Converts an ImageNet Swin Transformer of its authors into a backbone file of Detectron2.

    mask_former convert-swin swin_tiny_patch4_window7_224.pth swin_tiny_patch4_window7_224.pkl

The configurations expect swin_tiny_patch4_window7_224.pkl, swin_small_patch4_window7_224.pkl,
swin_base_patch4_window12_384_22k.pkl and swin_large_patch4_window12_384_22k.pkl in the working
directory.
"""

from collections.abc import Sequence

from ..d2.data.preparing import telling_errors
from ..d2.errors import InputError
from ..d2.weights.converting import Weights, convert_file, parse_args


def convert(weights: Weights) -> Weights:
    """The same weights: names and tensors stay as they are.

    Raises:
        InputError: these are not the weights of a Swin Transformer.
    """
    if "patch_embed.proj.weight" not in weights:
        raise InputError(
            f"these are no weights of a Swin Transformer: {', '.join([*weights][:3])} ... are the "
            "names, but patch_embed.proj.weight is expected"
        )
    return weights


def main(argv: Sequence[str] | None = None) -> None:
    """Reads, converts, writes."""
    args = parse_args(__doc__, argv)
    with telling_errors():
        _, converted = convert_file(args, convert, author="third_party")
    print(f"{args.output}: {len(converted)} tensors")
