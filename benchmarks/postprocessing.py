"""Time and memory from the head's output to the result of one image.

``python -m benchmarks.postprocessing [--json FILE]``, from the root of the checkout. 100 queries of
256 channels at stride 4; 15 of them are sure of a class and have a cell of the image each. Ours and
the plain reference (reference.py, which forms the masks of all queries first) get the same
predictions, and their results are compared before anything is timed. Where a result, or what the
reference holds at once, would exceed the memory budget, it is not measured, shown as a blank.
``measure.py`` has the protocol; of the rest,

* result: "semantic" are scores, "labels" their best class, "panoptic" is that alone, "both" is
  panoptic and semantic in one go.
* over output: peak memory over that of the result, which is part of the peak.
* reads: how often the host reads from the device (host_reads.py).
"""

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import product
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import reference
from benchmarks.host_reads import host_reads
from benchmarks.measure import add_arguments, compare, peak_mib, printed, report, seconds
from mask_former.functional.lazy_masks import lazy_masks
from mask_former.functional.panoptic import panoptic_inference
from mask_former.functional.semantic import semantic_inference

QUERIES, CHANNELS, SURE, STRIDE, DIVISOR = 100, 256, 15, 4, 32
THRESHOLDS = {"object_mask_threshold": 0.8, "overlap_threshold": 0.8}
RESULTS = ("semantic", "labels", "panoptic", "both")
COLUMNS = (
    *("ours ms", "reference ms", "time ratio", "ours MiB", "reference MiB", "memory ratio"),
    *("over output", "reads", "reference reads", "difference"),
)


class Shape(NamedTuple):
    """Of an image and its result."""

    height: int
    width: int
    classes: int

    @property
    def padded(self) -> tuple[int, int]:
        """What the network sees."""
        return -(-self.height // DIVISOR) * DIVISOR, -(-self.width // DIVISOR) * DIVISOR


SIZES = {"640": (640, 640), "1080p": (1080, 1920), "2048": (2048, 2048)}
SHAPES = {"ade20k": Shape(512, 683, 150)} | {
    f"{name}-{classes}": Shape(*size, classes)
    for (name, size), classes in product(SIZES.items(), (19, 133, 150, 847))
}


class Head(NamedTuple):
    """What the head says of one image."""

    class_logits: Tensor
    """[Q, K+1]"""
    mask_embed: Tensor
    """[Q, D]"""
    pixel_embed: Tensor
    """[D, h, w]"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="default: all")
    add("--results", nargs="+", choices=RESULTS, default=list(RESULTS), help="default: all")
    add_arguments(parser)
    add("--budget", type=float, default=12, help="of memory, in GiB; default: %(default)s")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints each row as soon as it is measured, then the table."""
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = (
        {"shape": name, "result": result}
        | measure(SHAPES[name], result, args.pairs, args.budget * 2**30)
        for name, result in product(args.shapes, args.results)
    )
    report(printed(rows), args)


@torch.no_grad()
def measure(shape: Shape, result: str, pairs: int, budget: float) -> dict[str, float | None]:
    """The figures of one row of the table; budget in bytes."""
    head = random_head(shape)
    ours = partial(our_result, head, shape, result)
    plain = partial(plain_result, head, shape, result)
    if output_bytes(shape, result) > budget:
        return dict.fromkeys(COLUMNS)
    figures: dict[str, float] = {"reads": host_reads(ours)}
    if reference_bytes(shape, result) > budget:
        figures |= {"ours MiB": peak_mib(ours)}
        figures |= {"ours ms": 1000 * median(seconds(ours) for _ in range(pairs))}
    else:
        figures |= {"reference reads": host_reads(plain), "difference": difference(ours(), plain())}
        found = compare(ours, plain, pairs)
        figures |= {"ours ms": found.ours_ms, "reference ms": found.reference_ms}
        figures |= {"time ratio": found.time_ratio, "memory ratio": found.memory_ratio}
        figures |= {"ours MiB": found.ours_mib, "reference MiB": found.reference_mib}
    over = figures["ours MiB"] * 2**20 / output_bytes(shape, result)
    return {name: (figures | {"over output": over}).get(name) for name in COLUMNS}


def random_head(shape: Shape) -> Head:
    """Each of the sure queries has a Voronoi cell, in a channel of its own; the rest is noise."""
    torch.manual_seed(0)
    class_logits = 2 * torch.randn(QUERIES, shape.classes + 1)
    class_logits[:, -1] += 20
    sure = torch.randperm(QUERIES)[:SURE]
    class_logits[sure, torch.randint(0, shape.classes, (SURE,))] += 40
    height, width = (side // STRIDE for side in shape.padded)
    pixel_embed = torch.randn(CHANNELS, height, width)
    y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
    distance = [(y - site[0]) ** 2 + (x - site[1]) ** 2 for site in torch.rand(SURE, 2)]
    nearest = torch.stack(distance).argmin(0)
    pixel_embed[:SURE] = 2.0 * (nearest == torch.arange(SURE)[:, None, None]) - 1
    mask_embed = torch.randn(QUERIES, CHANNELS) / CHANNELS**0.5
    mask_embed[sure, torch.arange(SURE)] += 5
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Head(*(part.to(device) for part in (class_logits, mask_embed, pixel_embed)))


def our_result(head: Head, shape: Shape, result: str) -> dict[str, Any]:
    """As ``MaskFormer`` does in evaluation."""
    size = (shape.height, shape.width)
    masks = lazy_masks(head.mask_embed, head.pixel_embed, shape.padded, size, size)
    found: dict[str, Any] = {}
    if result in ("panoptic", "both"):
        things = range(shape.classes // 2)
        found["panoptic_seg"] = panoptic_inference(head.class_logits, masks, things, **THRESHOLDS)
    if result != "panoptic":
        labels = result == "labels"
        found["sem_seg"] = semantic_inference(head.class_logits, masks, labels=labels)
    return found


def plain_result(head: Head, shape: Shape, result: str) -> dict[str, Any]:
    """The reference."""
    found = reference.results(
        head.class_logits,
        torch.einsum("qd,dhw->qhw", head.mask_embed, head.pixel_embed),
        shape.padded,
        (shape.height, shape.width),
        (shape.height, shape.width),
        semantic=result != "panoptic",
        panoptic=result in ("panoptic", "both"),
        thing_ids=frozenset(range(shape.classes // 2)),
        **THRESHOLDS,
    )
    if result == "labels":
        found["sem_seg"] = found["sem_seg"].argmax(0)
    return found


def difference(ours: dict[str, Any], plain: dict[str, Any]) -> float:
    """The largest of scores, over their largest, and the share of pixels that differ elsewhere.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    found = []
    for name, expected in plain.items():
        if name == "panoptic_seg":
            (ids, segments), (expected, expected_segments) = ours[name], expected
            classes = [[s["category_id"] for s in each] for each in (segments, expected_segments)]
            found += [float(classes[0] != classes[1]), float((ids != expected).double().mean())]
        elif expected.is_floating_point():
            found.append(float((ours[name] - expected).abs().max() / expected.abs().max()))
        else:
            found.append(float((ours[name] != expected).double().mean()))
    if max(found) > 1e-4:
        raise RuntimeError(f"ours and the reference differ by {max(found)}")
    return max(found)


def output_bytes(shape: Shape, result: str) -> int:
    """Of the tensors of a result."""
    pixel = {"semantic": 4 * shape.classes, "labels": 8, "panoptic": 4}
    pixel["both"] = pixel["semantic"] + pixel["panoptic"]
    return shape.height * shape.width * pixel[result]


def reference_bytes(shape: Shape, result: str) -> int:
    """What the reference holds at once, about: masks and scores, each before and after a step."""
    maps = 2 * QUERIES + (0 if result == "panoptic" else 2 * shape.classes)
    return 4 * maps * shape.padded[0] * shape.padded[1]


if __name__ == "__main__":
    main()
