#!/usr/bin/env python
"""How much faster the demo's OpenCV overlay is than its matplotlib overlay, side by side.

Each of the two draws the same synthetic panoptic segments over the same picture, in turn; the ratio
is the median of those of the pairs, which a machine that others use slows down alike.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

DRAWING = Path(__file__).resolve().parent.parent / "demo" / "drawing.py"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--height", type=int, default=1080, help="of the picture; default: %(default)s")
    add("--width", type=int, default=1920, help="of the picture; default: %(default)s")
    add("--things", type=int, default=12, help="beside five of stuff; default: %(default)s")
    add("--pairs", type=int, default=9, help="timed, after one that is not; default: %(default)s")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the medians and the ratio."""
    args = parse_args(argv)
    cv2.setNumThreads(1)
    drawing = load_drawing()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (args.height, args.width, 3), dtype=np.uint8)
    found = {"segments_info": segments(drawing, rng, args)}

    def measure(visualizer: Callable) -> float:
        start = time.perf_counter()
        visualizer(image).draw(found).get_image()
        return time.perf_counter() - start

    pairs = [
        (measure(drawing.SteadyVisualizer), measure(drawing.FastVisualizer))
        for _ in range(args.pairs + 1)
    ][1:]
    slow, fast = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(slow / fast for slow, fast in pairs)
    print(f"{args.width} x {args.height} pixels, {args.things + 5} segments, {len(pairs)} pairs")
    print(f"matplotlib {1000 * slow:.1f} ms, OpenCV {1000 * fast:.1f} ms, ratio {ratio:.1f}")


def load_drawing() -> ModuleType:
    """demo/drawing.py, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("drawing", DRAWING)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def segments(drawing: ModuleType, rng: np.random.Generator, args: argparse.Namespace) -> list:
    """Five bands of stuff with wavy edges, and ellipses as things upon them."""
    x = np.arange(args.width)
    waves = np.sin(x / 60)[None, :] * args.height / 40
    ids = np.clip((np.arange(args.height)[:, None] + waves) * 5 // args.height, 0, 4)
    ids = np.ascontiguousarray(ids, dtype=np.int32)
    for thing in range(5, 5 + args.things):
        center = (int(rng.integers(args.width)), int(rng.integers(args.height)))
        axes = (int(args.width * rng.uniform(0.01, 0.1)), int(args.height * rng.uniform(0.02, 0.2)))
        cv2.ellipse(ids, center, axes, int(rng.integers(180)), 0, 360, thing, -1)
    return [
        drawing.Region(
            i,
            i,
            f"class {i}",
            i >= 5,
            tuple(rng.random(3).tolist()),
            (ids == i).view(np.uint8),
            score=0.9,
        )
        for i in range(5 + args.things)
    ]


if __name__ == "__main__":
    main()
