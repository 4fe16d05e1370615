"""Evaluators: Detectron2's, which are given checked labels."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)
from detectron2.utils import comm

from mask_former.d2.data import reading
from mask_former.d2.errors import InputError

Samples = list[dict[str, Any]]


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """The evaluators that the data set's ``evaluator_type`` asks for.

    Args:
        cfg: the whole configuration.
        dataset_name: a registered data set.
        output_folder: for predictions and results; default ``OUTPUT_DIR/inference``.

    Raises:
        NotImplementedError: of an ``evaluator_type`` that is not known; Detectron2 then skips the
            data set and says so.
    """
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in _EVALUATORS:
        raise NotImplementedError(
            f"data set {dataset_name} has the evaluator_type {kind!r}; known are "
            f"{', '.join(_EVALUATORS)}"
        )
    evaluators = [make(dataset_name, folder) for make in _EVALUATORS[kind]]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


class CheckedSemSegEvaluator(SemSegEvaluator):
    """Detectron2's evaluator, which itself counts a label outside the classes as another class."""

    def process(self, inputs: Samples, outputs: Samples) -> None:
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


class CheckedPanopticEvaluator(COCOPanopticEvaluator):
    """Detectron2's evaluator, which itself leaves faulty ground truth out of the count."""

    def process(self, inputs: Samples, outputs: Samples) -> None:
        """Adds the predictions of a batch.

        Raises:
            InputError: a panoptic map is missing, broken or does not match its JSON.
        """
        for sample in inputs:
            if "pan_seg_file_name" in sample:  # the JSON alone is enough for the evaluator
                reading.read_panoptic_map(sample["pan_seg_file_name"], sample["segments_info"])
        super().process(inputs, outputs)


def _semantic(dataset_name: str, folder: str) -> DatasetEvaluator:
    return CheckedSemSegEvaluator(dataset_name, distributed=True, output_dir=folder)


def _panoptic(dataset_name: str, folder: str) -> DatasetEvaluator:
    if importlib.util.find_spec("panopticapi") is None:
        raise InputError(
            f"the panoptic evaluation of {dataset_name} needs panopticapi; install it with "
            "`python tools/install_detectron2.py`"
        )
    return CheckedPanopticEvaluator(dataset_name, folder)


def _coco(dataset_name: str, folder: str) -> DatasetEvaluator:
    return COCOEvaluator(dataset_name, output_dir=folder)


def _cityscapes_semantic(dataset_name: str, folder: str) -> DatasetEvaluator:
    _require_one_machine()
    return CityscapesSemSegEvaluator(dataset_name)


def _cityscapes_instance(dataset_name: str, folder: str) -> DatasetEvaluator:
    _require_one_machine()
    return CityscapesInstanceEvaluator(dataset_name)


def _require_one_machine() -> None:
    """Cityscapes' evaluators exchange predictions by a folder that all processes must see."""
    if comm.get_rank() >= max(1, torch.cuda.device_count()):
        raise InputError("Cityscapes is evaluated on one machine only; set --num-machines 1")


_EVALUATORS: dict[str, tuple[Callable[[str, str], DatasetEvaluator], ...]] = {
    "sem_seg": (_semantic,),
    "ade20k_panoptic_seg": (_semantic, _panoptic),
    "coco": (_coco,),
    "coco_panoptic_seg": (_panoptic,),
    "cityscapes_panoptic_seg": (_panoptic, _cityscapes_semantic),
    "cityscapes_instance": (_cityscapes_instance,),
    "cityscapes_sem_seg": (_cityscapes_semantic,),
}
