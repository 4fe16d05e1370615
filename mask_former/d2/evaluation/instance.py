"""Instance evaluation: Detectron2's of COCO, also of the things of a panoptic data set."""

import contextlib
import io
import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools import mask as coco_mask

from ..data.json_files import path_below_root, picture_id
from .described import described_instances
from .semantic import require_finite

_logger = logging.getLogger(__name__)


class InstanceEvaluator(COCOEvaluator):
    """Detectron2's evaluator, also of the things of a panoptic data set.

    It takes the classes from the JSON of instances: the metadata of a panoptic data set name stuff
    among them, for which Detectron2 asserts, and its things need not be the first classes.
    """

    _metadata: Metadata

    def __init__(self, dataset_name: str, output_dir: str) -> None:
        super().__init__(dataset_name, output_dir=output_dir)
        self._complete(self._coco_api.dataset)
        self._coco_api.dataset = described_instances(dataset_name, self._coco_api.dataset)
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()
        self._do_evaluation = bool(self._coco_api.dataset.get("annotations"))
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

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Adds the predictions of a batch; those of classes that the JSON lacks do not count."""
        for sample, output in zip(inputs, outputs, strict=True):
            require_finite(output["instances"].scores, sample["file_name"])
        inputs = [{**sample, "image_id": picture_id(sample["image_id"])} for sample in inputs]
        outputs = [{"instances": self._renumbered(output["instances"])} for output in outputs]
        super().process(inputs, outputs)

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict[str, Any]:
        """The results in the main process; none, and one line, without annotations."""
        results = super().evaluate(img_ids)
        if comm.is_main_process() and self._predictions and not self._do_evaluation:
            _logger.warning(
                "%s has no annotations, so there is nothing to compare: no AP; the predictions are "
                "in %s",
                self._metadata.json_file,
                Path(self._output_dir, "coco_instances_results.json"),
            )
        return results

    def _complete(self, content: dict[str, Any]) -> None:
        """Fills in what the JSON may leave out, and COCO's evaluation cannot do without."""
        for number, entry in enumerate(content.get("annotations", ()), start=1):
            if not entry.get("segmentation"):  # a crowd, which may have a box alone
                x, y, width, height = entry.get("bbox") or [0, 0, 0, 0]
                right, bottom = x + width, y + height
                entry["segmentation"] = [[x, y, right, y, right, bottom, x, bottom]]
            if "area" not in entry or "bbox" not in entry:
                lengths = self._coco_api.annToRLE(entry)
                entry.setdefault("area", float(coco_mask.area(lengths)))
                entry.setdefault("bbox", coco_mask.toBbox(lengths).tolist())
            entry.setdefault("iscrowd", 0)
            entry["id"] = number  # of 0, COCO's evaluation thinks that nothing was found
            entry["image_id"] = picture_id(entry["image_id"])
        for image in content["images"]:
            image["id"] = picture_id(image["id"])

    def _renumbered(self, instances: Instances) -> Instances:
        instances = instances.to("cpu")
        known = [label in self._positions for label in instances.pred_classes.tolist()]
        kept = instances[torch.tensor(known, dtype=torch.bool)]
        positions = [self._positions[label] for label in kept.pred_classes.tolist()]
        kept.pred_classes = torch.tensor(positions, dtype=torch.int64)
        return kept

    def _tasks_from_predictions(self, predictions: list[dict[str, Any]]) -> list[str]:
        if predictions:
            return super()._tasks_from_predictions(predictions)
        _logger.warning("No instance of %s was predicted: its AP is NaN", self._metadata.name)
        return ["bbox", "segm"]


class InstancePredictions(DatasetEvaluator):
    """Writes the predictions of a data set that has no JSON: there is nothing to compare."""

    def __init__(self, dataset_name: str, output_dir: str) -> None:
        self._metadata = MetadataCatalog.get(dataset_name)
        self._path = Path(output_dir, "coco_instances_results.json")
        ids = self._metadata.get("thing_dataset_id_to_contiguous_id", {})
        self._dataset_ids = {number: category for category, number in ids.items()}

    def reset(self) -> None:
        """Forgets the predictions."""
        self._predictions: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Adds the predictions of a batch; the id of a picture that has none is its path."""
        for sample, output in zip(inputs, outputs, strict=True):
            require_finite(output["instances"].scores, sample["file_name"])
            name = sample.get("image_id", path_below_root(self._metadata, sample["file_name"]))
            for found in instances_to_coco_json(output["instances"].to("cpu"), name):
                number = found["category_id"]
                found["category_id"] = self._dataset_ids.get(number, number)
                self._predictions.append(found)

    def evaluate(self) -> dict[str, Any] | None:
        """No results; one line says where the predictions are."""
        predictions = list(itertools.chain(*comm.gather(self._predictions)))
        if not comm.is_main_process():
            return None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(predictions), encoding="utf-8")
        _logger.warning(
            "Data set %s has no json_file, so there is nothing to compare: no AP; the predictions "
            "are in %s",
            self._metadata.name,
            self._path,
        )
        return {}
