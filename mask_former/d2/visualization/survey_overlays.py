"""The labels of a data set drawn on their pictures, as predictions are drawn."""

from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances

from ..data import annotations
from ..data.datasets import DescribedSet
from ..data.description import Description
from ..data.examination import Sample
from ..data.reading import as_displayed, read_picture, read_values
from .drawing import FastVisualizer, enlarge
from .regions import find_regions, with_colors

_SIDE = 640  # pixels of the longer side of a drawing, at most


def class_colors(description: Description) -> list[tuple[int, int, int]]:
    """The colours of the classes; those of a palette where the description has none."""
    known = with_colors(DescribedSet(description, description.splits[0]).metadata())
    kind = "thing" if description.task == "instance" else "stuff"
    palette = known.get(f"{kind}_colors")
    rows = zip(description.classes, palette, strict=True)
    return [(int(r), int(g), int(b)) for r, g, b in (entry.color or own for entry, own in rows)]


def draw_labels(description: Description, sample: Sample) -> np.ndarray:
    """A picture with the labels that a description gives it.

    Args:
        description: of the data set.
        sample: with labels that can be read and have the picture's size.

    Returns:
        [h, w, 3]; RGB, uint8.

    Raises:
        InputError: a file has gone.
    """
    image = read_picture(sample["file_name"], "RGB")
    height, width = image.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    labels = _labels(description, sample, image, size)
    found = find_regions(labels, _metadata(description))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small, found = enlarge(small, found)
    return FastVisualizer(small).draw(found).get_image()


def _metadata(description: Description) -> Metadata:
    known, colors = (
        DescribedSet(description, description.splits[0]).metadata(),
        class_colors(description),
    )
    return with_colors({**known, "stuff_colors": colors, "thing_colors": colors})


def _labels(
    description: Description, sample: Sample, image: np.ndarray, size: tuple[int, int]
) -> dict[str, Any]:
    """The labels in the form of a prediction, at a size (width and height)."""

    def shrink(ids: np.ndarray) -> torch.Tensor:
        small = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST)
        return torch.from_numpy(small)

    file_name = sample["file_name"]
    if "pan_seg_file_name" in sample:
        segments = sample["segments_info"]
        ids = annotations.read_panoptic_map(sample["pan_seg_file_name"], segments).ids
        return {"panoptic_seg": (shrink(ids), annotations.without_crowds(segments))}
    if "annotations" in sample:
        height, width = image.shape[:2]
        painted = annotations.paint(sample["annotations"], file_name, (height, width))
        categories = [entry["category_id"] for entry in painted.annotations]
        instances = Instances(size[::-1], pred_classes=torch.tensor(categories))
        instances.pred_masks = torch.stack([shrink(mask).bool() for mask in painted.masks])
        return {"instances": instances}
    return {"sem_seg": shrink(_semantic(description, sample, image))}


def _semantic(description: Description, sample: Sample, image: np.ndarray) -> np.ndarray:
    """Labels [H, W], int32; values that the description does not list are ignored, too."""
    values, label_file = description.label_values(), sample["sem_seg_file_name"]
    found = read_values(label_file, description.has_colors)
    if values is not None:
        rest = description.ignore_label if values.rest is None else values.rest
        found = values._replace(rest=rest).apply(label_file, found)
    shown = as_displayed(label_file, found, sample["file_name"], image)
    return np.where(
        (shown < 0) | (shown > description.ignore_label), description.ignore_label, shown
    ).astype(np.int32)
