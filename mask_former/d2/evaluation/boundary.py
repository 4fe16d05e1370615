"""Boundary IoU: how well the outlines fit, which mean IoU hardly sees in large segments."""

from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from .semantic import CheckedSemSegEvaluator, labels_of

_NOTHING = -1.0  # beyond the picture, whose border is an outline as well
_SHARE_OF_DIAGONAL = 0.02  # of the published measure


class BoundaryEvaluator(CheckedSemSegEvaluator):
    """Boundary IoU of each class, and its mean (Cheng et al., CVPR 2021, equation 2).

    Intersection and union of the boundary regions of prediction and truth, summed over all
    pictures. The boundary region of a class has its pixels nearer to another class or to the
    picture's border than 2 % of the diagonal. Ignored pixels count nowhere, though an edge of an
    ignored area is an outline.
    """

    def reset(self) -> None:
        """Forgets the predictions."""
        self._intersections = np.zeros(self._num_classes, np.int64)
        self._unions = np.zeros(self._num_classes, np.int64)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Adds the predictions of a batch; see :class:`TakesLabels`.

        Raises:
            InputError: as :class:`CheckedSemSegEvaluator`.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            _, shown = self.read_labels(sample)
            truth = torch.as_tensor(shown.astype(np.int64))
            found = labels_of(output["sem_seg"], sample["file_name"]).cpu()
            counted = truth != self._ignore_label
            in_truth, in_found = (boundary_region(labels) & counted for labels in (truth, found))
            agreed = in_truth & in_found & (truth == found)
            intersections, truths, founds = (
                torch.bincount(labels[region], minlength=self._num_classes).numpy()
                for labels, region in ((truth, agreed), (truth, in_truth), (found, in_found))
            )
            self._intersections += intersections
            self._unions += truths + founds - intersections

    def evaluate(self) -> dict[str, Any] | None:
        """``boundary``, in per cent: mIoU over the classes that occur, and IoU of each class."""
        counts = comm.gather((self._intersections, self._unions))
        if not comm.is_main_process():
            return None
        intersections, unions = (np.sum(parts, axis=0) for parts in zip(*counts, strict=True))
        with np.errstate(invalid="ignore"):
            ious = 100 * intersections / unions
        mean = float(np.mean(ious[unions > 0])) if unions.any() else float("nan")
        by_class = {f"IoU-{n}": x for n, x in zip(self._class_names, ious.tolist(), strict=True)}
        return {"boundary": {"mIoU": mean, **by_class}}


def boundary_region(labels: Tensor) -> Tensor:
    """Which pixels are near a border of their class.

    Args:
        labels: [H, W] whole numbers of 0 or more, below 2**24.

    Returns:
        [H, W] bool; where an erosion of the pixel's class by 2 % of the diagonal takes it away.
    """
    height, width = labels.shape
    distance = max(1, round(_SHARE_OF_DIAGONAL * float(np.hypot(height, width))))
    padded = pad(labels[None].float(), [distance] * 4, value=_NOTHING)

    def pool(values: Tensor) -> Tensor:
        rows = max_pool2d(values, (2 * distance + 1, 1), stride=1)
        return max_pool2d(rows, (1, 2 * distance + 1), stride=1)[0]

    greatest, least = pool(padded), -pool(-padded)
    return greatest != least
