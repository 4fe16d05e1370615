"""Instance evaluation: Detectron2's of COCO, also of the things of a panoptic data set."""

import contextlib
import io
import logging
from typing import Any

import torch
from detectron2.data.catalog import Metadata
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Instances

from .described import described_instances

_logger = logging.getLogger(__name__)


class InstanceEvaluator(COCOEvaluator):
    """Detectron2's evaluator, also of the things of a panoptic data set.

    It takes the classes from the JSON of instances: the metadata of a panoptic data set name stuff
    among them, for which Detectron2 asserts, and its things need not be the first classes.
    """

    _metadata: Metadata

    def __init__(self, dataset_name: str, output_dir: str) -> None:
        super().__init__(dataset_name, output_dir=output_dir)
        self._coco_api.dataset = described_instances(dataset_name, self._coco_api.dataset)
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()
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
        outputs = [{"instances": self._renumbered(output["instances"])} for output in outputs]
        super().process(inputs, outputs)

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
