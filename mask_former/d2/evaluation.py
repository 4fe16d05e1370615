"""Evaluators: Detectron2's, given checked labels and saying so when there is nothing to count."""

import contextlib
import importlib.util
import io
import itertools
import json
import logging
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)
from detectron2.evaluation.cityscapes_evaluation import CityscapesEvaluator
from detectron2.evaluation.panoptic_evaluation import _print_panoptic_results
from detectron2.structures import Instances
from detectron2.utils import comm

from mask_former.d2.data import reading
from mask_former.d2.errors import InputError

Samples = list[dict[str, Any]]

_TEST = "MODEL.MASK_FORMER.TEST"
_logger = logging.getLogger(__name__)


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """The evaluators that the data set's ``evaluator_type`` asks for and the model can serve.

    Args:
        cfg: the whole configuration.
        dataset_name: a registered data set.
        output_folder: for predictions and results; default ``OUTPUT_DIR/inference``.

    Raises:
        NotImplementedError: of an ``evaluator_type`` that is not known; Detectron2 then skips the
            data set and says so.
        InputError: the model gives none of the results that the data set is evaluated on.
    """
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    evaluators = [make(dataset_name, folder) for make in choose_evaluators(cfg, dataset_name)]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def choose_evaluators(
    cfg: CfgNode, dataset_name: str
) -> list[Callable[[str, str], DatasetEvaluator]]:
    """The makers of the evaluators of :func:`build_evaluator`; raises as it does, reads no file."""
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type")
    if kind not in _EVALUATORS:
        raise NotImplementedError(
            f"data set {dataset_name} has the evaluator_type {kind!r}; known are "
            f"{', '.join(_EVALUATORS)}"
        )
    given = _results_given(cfg)
    makers = [part.make for part in _EVALUATORS[kind] if part.needs in given]
    if not makers:
        raise InputError(_nothing_to_evaluate(cfg, dataset_name, kind))
    if kind in _INSTANCES_OF_PANOPTIC and cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON:
        part = _INSTANCES_OF_PANOPTIC[kind]
        makers += [part.make] if part.needs in given and metadata.get(part.annotations) else []
    return makers


def _results_given(cfg: CfgNode) -> set[str]:
    """The keys that stand for the results of the model."""
    keys = ("SEMANTIC_ON", "PANOPTIC_ON", "INSTANCE_ON")
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture == "SemanticSegmentor":
        return {"SEMANTIC_ON"}
    if architecture == "MaskFormer":
        return {key for key in keys if cfg.MODEL.MASK_FORMER.TEST[key]}
    return set(keys)  # someone else's model: its evaluators will see


def _nothing_to_evaluate(cfg: CfgNode, dataset_name: str, kind: str) -> str:
    needed = " or ".join(f"{_TEST}.{part.needs}" for part in _EVALUATORS[kind])
    remedy = f"set {needed} True"
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        remedy = 'MODEL.META_ARCHITECTURE "SemanticSegmentor" gives semantic labels alone'
    return (
        f"data set {dataset_name} is evaluated as {kind}, of which the model gives no result; "
        f"{remedy}, or name another data set in DATASETS.TEST"
    )


class _Labels:
    """A label map [H, W] that passes for scores with evaluators that take their argmax."""

    def __init__(self, labels: torch.Tensor) -> None:
        self._labels = labels

    def argmax(self, dim: int) -> torch.Tensor:
        """The labels."""
        return self._labels


class _TakesLabels(DatasetEvaluator):
    """Lets a semantic evaluator take the label maps of SEM_SEG_OUTPUT "labels" beside scores."""

    def process(self, inputs: Samples, outputs: Samples) -> None:
        """Adds the predictions of a batch; ``sem_seg`` is [K, H, W] scores or [H, W] labels."""
        found = [output["sem_seg"] for output in outputs]
        scores = [{"sem_seg": _Labels(x) if x.dim() == 2 else x} for x in found]
        super().process(inputs, scores)


class CheckedSemSegEvaluator(_TakesLabels, SemSegEvaluator):
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


class CheckedPanopticEvaluator(COCOPanopticEvaluator):
    """Detectron2's evaluator, which itself leaves faulty ground truth out of the count.

    The count is panopticapi's, whose averages divide by zero where a data set has no things, or no
    stuff, at all.
    """

    def process(self, inputs: Samples, outputs: Samples) -> None:
        """Adds the predictions of a batch.

        Raises:
            InputError: a panoptic map is missing, broken or does not match its JSON.
        """
        for sample in inputs:
            if "pan_seg_file_name" in sample:  # the JSON alone is enough for the evaluator
                reading.read_panoptic_map(sample["pan_seg_file_name"], sample["segments_info"])
        super().process(inputs, outputs)

    def evaluate(self) -> dict[str, Any] | None:
        """The results in the main process; NaN, and one line, for what has no segment.

        Raises:
            InputError: an image of the JSON has no prediction.
        """
        comm.synchronize()
        predictions = list(itertools.chain(*comm.gather(self._predictions)))
        if not comm.is_main_process():
            return None
        if not predictions:
            _logger.warning("No image of %s was predicted: no panoptic result", self._name)
            return {}
        with open(self._metadata.panoptic_json, encoding="utf-8") as file:
            truth = json.load(file)
        pairs = self._pairs(truth["annotations"], predictions)
        qualities = self._qualities(pairs, {entry["id"]: entry for entry in truth["categories"]})
        self._save({**truth, "annotations": predictions})
        _print_panoptic_results(qualities)
        return {"panoptic_seg": _panoptic_result(qualities)}

    @property
    def _name(self) -> str:
        return self._metadata.name

    def _pairs(self, truth: Samples, predictions: Samples) -> list[tuple[dict, dict]]:
        """The annotation and the prediction of each image."""
        found = {prediction["image_id"]: prediction for prediction in predictions}
        missing = [entry["image_id"] for entry in truth if entry["image_id"] not in found]
        if missing:
            raise InputError(
                f"{len(missing)} images of {self._metadata.panoptic_json} have no prediction, such "
                f"as {missing[0]}; its images and those of data set {self._name} must be the same"
            )
        return [(entry, found[entry["image_id"]]) for entry in truth]

    def _qualities(
        self, pairs: list[tuple[dict, dict]], categories: dict[int, dict]
    ) -> dict[str, dict[str, float]]:
        """``pq``, ``sq``, ``rq``, 0..1, and the number of classes ``n``, by group of classes."""
        from panopticapi.evaluation import pq_compute_multi_core

        with tempfile.TemporaryDirectory(prefix="panoptic_eval") as folder:
            for _, prediction in pairs:
                Path(folder, prediction["file_name"]).write_bytes(prediction["png_string"])
            with contextlib.redirect_stdout(io.StringIO()):
                count = pq_compute_multi_core(
                    pairs, self._metadata.panoptic_root, folder, categories
                )
        groups = {"All": None, "Things": True, "Stuff": False}
        return {
            group: self._average(count, categories, group, isthing)
            for group, isthing in groups.items()
        }

    def _average(
        self, count: Any, categories: dict[int, dict], group: str, isthing: bool | None
    ) -> dict[str, float]:
        try:
            return count.pq_average(categories, isthing)[0]
        except ZeroDivisionError:
            name = {"All": "segment", "Things": "thing", "Stuff": "stuff"}[group]
            _logger.warning("%s has no %s, true or predicted: its PQ is NaN", self._name, name)
            return {"pq": math.nan, "sq": math.nan, "rq": math.nan, "n": 0}

    def _save(self, content: dict[str, Any]) -> None:
        for prediction in content["annotations"]:
            del prediction["png_string"]
        if self._output_dir is not None:
            path = Path(self._output_dir, "predictions.json")
            path.write_text(json.dumps(content, default=int), encoding="utf-8")


def _panoptic_result(qualities: dict[str, dict[str, float]]) -> dict[str, float]:
    """Percentages under Detectron2's names."""
    suffixes = {"All": "", "Things": "_th", "Stuff": "_st"}
    return {
        measure.upper() + suffix: 100 * qualities[group][measure]
        for group, suffix in suffixes.items()
        for measure in ("pq", "sq", "rq")
    }


class InstanceEvaluator(COCOEvaluator):
    """Detectron2's evaluator, also of the things of a panoptic data set.

    It takes the classes from the JSON of instances: the metadata of a panoptic data set name stuff
    among them, for which Detectron2 asserts, and its things need not be the first classes.
    """

    def __init__(self, dataset_name: str, output_dir: str) -> None:
        super().__init__(dataset_name, output_dir=output_dir)
        ids = sorted(self._coco_api.getCatIds())
        contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        contiguous = contiguous or {category: i for i, category in enumerate(ids)}
        self._positions = {
            contiguous[category]: i for i, category in enumerate(ids) if category in contiguous
        }
        names = [category["name"] for category in self._coco_api.loadCats(ids)]
        self._metadata = Metadata(
            name=dataset_name,
            json_file=self._metadata.json_file,
            thing_classes=names,
            thing_dataset_id_to_contiguous_id={category: i for i, category in enumerate(ids)},
        )

    def process(self, inputs: Samples, outputs: Samples) -> None:
        """Adds the predictions of a batch; those of classes that the JSON lacks do not count."""
        outputs = [{"instances": self._renumbered(output["instances"])} for output in outputs]
        super().process(inputs, outputs)

    def _renumbered(self, instances: Instances) -> Instances:
        instances = instances.to("cpu")
        known = [label in self._positions for label in instances.pred_classes.tolist()]
        kept = instances[torch.tensor(known, dtype=torch.bool)]
        positions = [self._positions[label] for label in kept.pred_classes.tolist()]
        kept.pred_classes = torch.tensor(positions, dtype=torch.int64)
        return kept

    def _tasks_from_predictions(self, predictions: Samples) -> list[str]:
        if predictions:
            return super()._tasks_from_predictions(predictions)
        _logger.warning("No instance of %s was predicted: its AP is NaN", self._metadata.name)
        return ["bbox", "segm"]


class _Everywhere(CityscapesEvaluator):
    """Lets Cityscapes' evaluators, which exchange files, work on several machines.

    Detectron2 has all processes write to a folder of the first, which others need not see.
    """

    def reset(self) -> None:
        """A folder of this process's own."""
        self._working_dir = tempfile.TemporaryDirectory(prefix="cityscapes_eval_")
        self._temp_dir = self._working_dir.name

    def evaluate(self) -> dict[str, Any] | None:
        """The results in the main process, to which the others send their files."""
        is_main = comm.is_main_process()
        own = {} if is_main else {f.name: f.read_bytes() for f in Path(self._temp_dir).iterdir()}
        for files in comm.gather(own):
            for name, content in files.items():
                Path(self._temp_dir, name).write_bytes(content)
        if is_main and not any(Path(self._temp_dir).iterdir()):
            _logger.warning("No image of %s was predicted: no result", self._metadata.name)
            comm.synchronize()
            return {}
        try:
            return super().evaluate()
        finally:
            self._working_dir.cleanup()


class SharedCityscapesSemSegEvaluator(_TakesLabels, _Everywhere, CityscapesSemSegEvaluator):
    """Semantic evaluation of Cityscapes on any number of machines."""


class SharedCityscapesInstanceEvaluator(_Everywhere, CityscapesInstanceEvaluator):
    """Instance evaluation of Cityscapes on any number of machines."""


def _semantic(dataset_name: str, folder: str) -> DatasetEvaluator:
    return CheckedSemSegEvaluator(dataset_name, distributed=True, output_dir=folder)


def _panoptic(dataset_name: str, folder: str) -> DatasetEvaluator:
    _require("panopticapi", dataset_name, "python tools/install_detectron2.py")
    return CheckedPanopticEvaluator(dataset_name, folder)


def _cityscapes_semantic(dataset_name: str, folder: str) -> DatasetEvaluator:
    _require_cityscapes(dataset_name)
    return SharedCityscapesSemSegEvaluator(dataset_name)


def _cityscapes_instance(dataset_name: str, folder: str) -> DatasetEvaluator:
    _require_cityscapes(dataset_name)
    return SharedCityscapesInstanceEvaluator(dataset_name)


def _require_cityscapes(dataset_name: str) -> None:
    _require("cityscapesscripts", dataset_name, "pip install cityscapesscripts")
    if not hasattr(np, "in1d"):  # cityscapesscripts 2.3 would fail after the last image
        raise InputError(
            f"the evaluation of {dataset_name} needs cityscapesscripts, which calls numpy.in1d, "
            f"and NumPy {np.__version__} no longer has it; evaluate with NumPy 1.26"
        )


def _require(package: str, dataset_name: str, command: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"the evaluation of {dataset_name} needs {package}; install it with `{command}`"
        )


class _Part(NamedTuple):
    """One evaluator of several."""

    needs: str
    """The key that has the model give its results."""
    make: Callable[[str, str], DatasetEvaluator]
    annotations: str = ""
    """The metadata without which it is left out."""


_SEMANTIC = _Part("SEMANTIC_ON", _semantic)
_PANOPTIC = _Part("PANOPTIC_ON", _panoptic)
_INSTANCE = _Part("INSTANCE_ON", InstanceEvaluator, "json_file")
_CITYSCAPES_SEMANTIC = _Part("SEMANTIC_ON", _cityscapes_semantic)
_CITYSCAPES_INSTANCE = _Part("INSTANCE_ON", _cityscapes_instance, "gt_dir")
_EVALUATORS = {
    "sem_seg": (_SEMANTIC,),
    "ade20k_panoptic_seg": (_SEMANTIC, _PANOPTIC),
    "coco": (_INSTANCE,),
    "coco_panoptic_seg": (_PANOPTIC,),
    "cityscapes_panoptic_seg": (_PANOPTIC, _CITYSCAPES_SEMANTIC),
    "cityscapes_instance": (_CITYSCAPES_INSTANCE,),
    "cityscapes_sem_seg": (_CITYSCAPES_SEMANTIC,),
}
_INSTANCES_OF_PANOPTIC = {
    "ade20k_panoptic_seg": _INSTANCE,
    "coco_panoptic_seg": _INSTANCE,
    "cityscapes_panoptic_seg": _CITYSCAPES_INSTANCE,
}
