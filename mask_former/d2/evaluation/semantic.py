"""Semantic evaluation: Detectron2's, of scores or of label maps, against checked labels."""

import logging
import tempfile
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator, SemSegEvaluator
from PIL import Image

from ..data import reading
from ..data.datasets import registered_row

_logger = logging.getLogger(__name__)


class _Labels:
    """A label map [H, W] that passes for scores with evaluators that take their argmax."""

    def __init__(self, labels: torch.Tensor) -> None:
        self._labels = labels

    def argmax(self, dim: int) -> torch.Tensor:
        """The labels."""
        return self._labels


class TakesLabels(DatasetEvaluator):
    """Lets a semantic evaluator take the label maps of SEM_SEG_OUTPUT "labels" beside scores."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Adds the predictions of a batch; ``sem_seg`` is [K, H, W] scores or [H, W] labels."""
        found = [output["sem_seg"] for output in outputs]
        scores = [{"sem_seg": _Labels(x) if x.dim() == 2 else x} for x in found]
        super().process(inputs, scores)


class CheckedSemSegEvaluator(TakesLabels, SemSegEvaluator):
    """Detectron2's evaluator, which itself counts a label outside the classes as another class.

    Args:
        dataset_name: a registered data set; where a description tells what the values of its label
            files stand for, they are read as labels.
        options: Detectron2's.
    """

    input_file_to_gt_file: dict[str, str]

    def __init__(self, dataset_name: str, **options: Any) -> None:
        super().__init__(dataset_name, **options)
        row = registered_row(dataset_name)
        self._values = None if row is None else row.description.label_values()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Adds the predictions of a batch.

        Raises:
            InputError: a label map is missing, broken, of another size or has other ids.
        """
        as_they_lie = self.input_file_to_gt_file
        with tempfile.TemporaryDirectory(prefix="label_maps") as folder:
            checked = {sample["file_name"]: self._checked(sample, folder) for sample in inputs}
            self.input_file_to_gt_file = checked
            super().process(inputs, outputs)
        self.input_file_to_gt_file = as_they_lie

    def _checked(self, sample: dict[str, Any], folder: str) -> str:
        """The label map of a sample; a copy with labels where its file differs from them."""
        image_file = sample["file_name"]
        label_file = self.input_file_to_gt_file[image_file]
        classes, ignored = self._num_classes, self._ignore_label
        labels = reading.read_label_map(label_file, classes, ignored, self._values)
        image = np.empty((sample["height"], sample["width"]), bool)  # only its size counts
        shown = reading.as_displayed(label_file, labels, image_file, image)
        if self._values is None and shown is labels:
            return label_file
        _, copy = tempfile.mkstemp(suffix=".tif", dir=folder)
        Image.fromarray(shown).save(copy)
        return copy

    def evaluate(self) -> dict[str, Any] | None:
        """The results; NaN, and one line, if no pixel of any label map has a class."""
        with np.errstate(invalid="ignore", divide="ignore"):
            results = super().evaluate()
        if results is not None and not self._conf_matrix[:-1, :-1].any():
            _logger.warning(
                "No pixel of the label maps of %s has a class: its semantic results are NaN",
                self._dataset_name,
            )
        return results
