#!/usr/bin/env python
"""Converts an ImageNet Swin Transformer of its authors into a backbone file of Detectron2.

    python tools/convert_swin.py swin_tiny_patch4_window7_224.pth swin_tiny_patch4_window7_224.pkl

The configurations expect swin_tiny_patch4_window7_224.pkl, swin_small_patch4_window7_224.pkl,
swin_base_patch4_window12_384_22k.pkl and swin_large_patch4_window12_384_22k.pkl in the working
directory.
"""

import argparse
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mask_former.d2.data.preparing import replacing, telling_errors
from mask_former.d2.errors import InputError
from mask_former.d2.weights import read_weights


def convert(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What Detectron2 reads as a backbone; names and tensors stay as they are.

    Raises:
        InputError: these are not the weights of a Swin Transformer.
    """
    weights = checkpoint["model"]
    if "patch_embed.proj.weight" not in weights:
        raise InputError(
            f"these are no weights of a Swin Transformer: {', '.join([*weights][:3])} ... are the "
            "names, but patch_embed.proj.weight is expected"
        )
    return {"model": weights, "__author__": "third_party", "matching_heuristics": True}


def main(argv: Sequence[str] | None = None) -> None:
    """Reads, converts, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", help="the .pth file of the authors")
    parser.add_argument("output", type=Path, help="the .pkl file to write")
    args = parser.parse_args(argv)
    with telling_errors():
        content = convert(read_weights(args.input))
        with replacing(args.output) as temporary:
            temporary.write_bytes(pickle.dumps(content))
    print(f"{args.output}: {len(content['model'])} tensors")


if __name__ == "__main__":
    main()
