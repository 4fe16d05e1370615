"""Semantic evaluation: Detectron2's, of scores or of label maps, against checked labels."""

import logging
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator, SemSegEvaluator

from ..data import reading

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
    """Detectron2's evaluator, which itself counts a label outside the classes as another class."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Adds the predictions of a batch.

        Raises:
            InputError: a label map is missing, broken, of another size or has other ids.
        """
        for sample in inputs:
            image_file = sample["file_name"]
            label_file = self.input_file_to_gt_file[image_file]
            labels = reading.read_label_map(label_file, self._num_classes, self._ignore_label)
            image = np.empty((sample["height"], sample["width"]), bool)  # only its size counts
            reading.check_same_size(label_file, labels, image_file, image)
        super().process(inputs, outputs)

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
