"""Semantic evaluation: Detectron2's, of scores or of label maps, against checked labels."""

import itertools
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, SemSegEvaluator
from detectron2.utils import comm
from PIL import Image

from ..data import reading
from ..data.datasets import registered_row
from ..errors import InputError

_logger = logging.getLogger(__name__)


class _Labels:
    """A label map [H, W] that passes for scores with evaluators that take their argmax."""

    def __init__(self, labels: torch.Tensor) -> None:
        self._labels = labels

    def argmax(self, dim: int) -> torch.Tensor:
        """The labels."""
        return self._labels


def labels_of(result: torch.Tensor, file_name: str) -> torch.Tensor:
    """The label map [H, W] of scores [K, H, W], or of a label map.

    Raises:
        InputError: scores are not finite.
    """
    if result.dim() == 2:
        return result
    labels = result.argmax(dim=0)  # of NaN, where there is one
    require_finite(result.gather(0, labels[None]), file_name)
    return labels


def require_finite(scores: torch.Tensor, file_name: str) -> None:
    """Refuses scores of a picture that would be counted as some class, or as none."""
    if not scores.isfinite().all():
        raise InputError(
            f"the model gives scores for {file_name} that are not finite; the weights come from a "
            "training that has diverged, or overflow in half precision: give others as "
            "MODEL.WEIGHTS, or turn SOLVER.AMP.ENABLED off"
        )


class TakesLabels(DatasetEvaluator):
    """Lets a semantic evaluator take the label maps of SEM_SEG_OUTPUT "labels" beside scores."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Adds the predictions of a batch; ``sem_seg`` is [K, H, W] scores or [H, W] labels.

        Raises:
            InputError: scores are not finite.
        """
        pairs = zip(inputs, outputs, strict=True)
        found = [labels_of(output["sem_seg"], sample["file_name"]) for sample, output in pairs]
        super().process(inputs, [{"sem_seg": _Labels(labels)} for labels in found])


class SemanticPredictions(SemSegEvaluator):
    """Writes the predictions of a data set that has no label maps: there is nothing to compare."""

    def __init__(self, dataset_name: str, output_dir: str) -> None:
        """Not Detectron2's, which looks for the label maps."""
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        ids = MetadataCatalog.get(dataset_name).get("stuff_dataset_id_to_contiguous_id")
        self._contiguous_id_to_dataset_id = ids and {v: k for k, v in ids.items()}

    def reset(self) -> None:
        """Forgets the predictions."""
        self._predictions: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Adds the predictions of a batch."""
        for sample, output in zip(inputs, outputs, strict=True):
            labels = labels_of(output["sem_seg"], sample["file_name"]).cpu().numpy()
            self._predictions += self.encode_json_sem_seg(labels, sample["file_name"])

    def evaluate(self) -> dict[str, Any] | None:
        """No results; one line says where the predictions are."""
        predictions = list(itertools.chain(*comm.gather(self._predictions)))
        if not comm.is_main_process():
            return None
        path = Path(self._output_dir, "sem_seg_predictions.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(predictions), encoding="utf-8")
        _logger.warning(
            "Data set %s has no label maps, so there is nothing to compare: no semantic results; "
            "the predictions are in %s",
            self._dataset_name,
            path,
        )
        return {}


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
        label_file = self.input_file_to_gt_file[sample["file_name"]]
        stored, shown = self.read_labels(sample)
        if self._values is None and shown is stored:
            return label_file
        _, copy = tempfile.mkstemp(suffix=".tif", dir=folder)
        Image.fromarray(shown).save(copy)
        return copy

    def read_labels(self, sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """The label map [H, W] of a sample, as it is stored and turned as its picture is shown."""
        image_file = sample["file_name"]
        label_file = self.input_file_to_gt_file[image_file]
        classes, ignored = self._num_classes, self._ignore_label
        stored = reading.read_label_map(label_file, classes, ignored, self._values)
        image = np.empty((sample["height"], sample["width"]), bool)  # only its size counts
        return stored, reading.as_displayed(label_file, stored, image_file, image)

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
