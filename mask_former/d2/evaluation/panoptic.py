"""Panoptic evaluation: Detectron2's with panopticapi's count, against checked ground truth."""

import contextlib
import io
import itertools
import json
import logging
import math
import tempfile
from pathlib import Path
from typing import Any

from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.evaluation.panoptic_evaluation import _print_panoptic_results
from detectron2.utils import comm

from ..data.annotations import read_panoptic_map
from ..errors import InputError
from .described import described_panoptic

_logger = logging.getLogger(__name__)


class CheckedPanopticEvaluator(COCOPanopticEvaluator):
    """Detectron2's evaluator, which itself leaves faulty ground truth out of the count.

    The count is panopticapi's, whose averages divide by zero where a data set has no things, or no
    stuff, at all.
    """

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Adds the predictions of a batch.

        Raises:
            InputError: a panoptic map is missing, broken or does not match its JSON.
        """
        for sample in inputs:
            if "pan_seg_file_name" in sample:  # the JSON alone is enough for the evaluator
                read_panoptic_map(sample["pan_seg_file_name"], sample["segments_info"])
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
        with tempfile.TemporaryDirectory(prefix="panoptic_truth") as folder:
            root = self._metadata.panoptic_root
            truth, root = described_panoptic(self._name, truth, root, folder)
            pairs = self._pairs(truth["annotations"], predictions)
            categories = {entry["id"]: entry for entry in truth["categories"]}
            qualities = self._qualities(pairs, categories, root)
        self._save({**truth, "annotations": predictions})
        _print_panoptic_results(qualities)
        return {"panoptic_seg": _panoptic_result(qualities)}

    @property
    def _name(self) -> str:
        return self._metadata.name

    def _pairs(
        self, truth: list[dict[str, Any]], predictions: list[dict[str, Any]]
    ) -> list[tuple[dict, dict]]:
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
        self, pairs: list[tuple[dict, dict]], categories: dict[int, dict], root: str
    ) -> dict[str, dict[str, float]]:
        """``pq``, ``sq``, ``rq``, 0..1, and the number of classes ``n``, by group of classes."""
        from panopticapi.evaluation import pq_compute_multi_core

        with tempfile.TemporaryDirectory(prefix="panoptic_eval") as folder:
            for _, prediction in pairs:
                Path(folder, prediction["file_name"]).write_bytes(prediction["png_string"])
            with contextlib.redirect_stdout(io.StringIO()):
                count = pq_compute_multi_core(pairs, root, folder, categories)
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
