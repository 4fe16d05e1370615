"""From the head's output to the result of one image.

``postprocessing/RESULT/SHAPE``, a shape of ``SHAPES`` or as in criterion.py: of 100 queries at
stride 4, 15 are sure of a class and have a cell of the image each. The reference forms the masks of
all queries first. "semantic" are scores, "labels" their best class, "panoptic" is that alone.
"""

import torch
from torch import Tensor

from benchmarks import reference
from benchmarks.criterion import Shape, shape_named, voronoi_cells
from benchmarks.measure import Work, device
from mask_former.functional.lazy_masks import lazy_masks
from mask_former.functional.panoptic import panoptic_inference
from mask_former.functional.semantic import semantic_inference

SIDES = ("reference", "ours")
RESULTS = ("semantic", "labels", "panoptic")
THRESHOLDS = {"object_mask_threshold": 0.8, "overlap_threshold": 0.8}
SIZES = {"640": (640, 640), "1080p": (1080, 1920), "2048": (2048, 2048)}
SHAPES = {"ade20k": Shape(1, 512, 683, 15, 150), "640-847": Shape(1, 640, 640, 15, 847)} | {
    f"{name}-{classes}": Shape(1, *size, 15, classes)
    for name, size in SIZES.items()
    for classes in (19, 133)
}
CASES = tuple(f"postprocessing/{result}/{name}" for name in SHAPES for result in RESULTS)


def build(case: str, side: str) -> Work:
    """One side: scores, labels or segment ids."""
    result, name = case.split("/")[1:3]
    shape = SHAPES[name] if name in SHAPES else shape_named(name)
    size, things = (shape.height, shape.width), frozenset(range(shape.classes // 2))
    padded = -(-shape.height // 32) * 32, -(-shape.width // 32) * 32
    class_logits, mask_embed, pixel_embed = random_head(shape, padded)

    def ours() -> Tensor:
        masks = lazy_masks(mask_embed, pixel_embed, padded, size, size)
        if result == "panoptic":
            return panoptic_inference(class_logits, masks, things, **THRESHOLDS)[0]
        return semantic_inference(class_logits, masks, labels=result == "labels")

    def plain() -> Tensor:
        masks = torch.einsum("qd,dhw->qhw", mask_embed, pixel_embed)
        found = reference.results(
            class_logits,
            masks,
            padded,
            size,
            size,
            semantic=result != "panoptic",
            panoptic=result == "panoptic",
            thing_ids=things,
            **THRESHOLDS,
        )
        if result == "panoptic":
            return found["panoptic_seg"][0]
        return found["sem_seg"].argmax(0) if result == "labels" else found["sem_seg"]

    return torch.no_grad()(ours if side == "ours" else plain)


def random_head(shape: Shape, padded: tuple[int, int]) -> list[Tensor]:
    """Class logits [Q, K+1], mask embeddings [Q, D] and pixel embeddings [D, h, w] of an image.

    Each sure query has a cell, in a channel of its own; the rest is noise.
    """
    class_logits = 2 * torch.randn(shape.queries, shape.classes + 1)
    mask_embed = torch.randn(shape.queries, shape.channels) / shape.channels**0.5
    pixel_embed = torch.randn(shape.channels, padded[0] // 4, padded[1] // 4)
    class_logits[:, -1] += 20
    sure = torch.randperm(shape.queries)[: shape.segments]
    class_logits[sure, torch.randint(0, shape.classes, (len(sure),))] += 40
    mask_embed[sure, torch.arange(len(sure))] += 5
    pixel_embed[: len(sure)] = 2.0 * voronoi_cells(len(sure), *pixel_embed.shape[1:]) - 1
    return [part.to(device()) for part in (class_logits, mask_embed, pixel_embed)]
