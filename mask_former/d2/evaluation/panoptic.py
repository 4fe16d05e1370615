"""Panoptic evaluation: Detectron2's with panopticapi's count, against checked ground truth."""

import contextlib
import io
import itertools
import json
import logging
import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.evaluation.panoptic_evaluation import _print_panoptic_results
from detectron2.utils import comm

from ..data.annotations import read_panoptic_map
from ..data.json_files import path_below_root, picture_id, read_json
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
        names = [path_below_root(self._metadata, sample["file_name"]) for sample in inputs]
        pairs = zip(names, inputs, strict=True)
        super().process([{"image_id": name, **sample} for name, sample in pairs], outputs)
        for name, prediction in zip(names, self._predictions[-len(names) :], strict=True):
            # Detectron2's is the base name, which pictures of several folders may share.
            prediction["file_name"] = f"{name}.png"
            prediction["image_id"] = picture_id(prediction["image_id"])

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
        _shorten_names(predictions)
        if not self._metadata.get("panoptic_json"):
            return self._keep(predictions)
        truth = read_json(self._metadata.panoptic_json, "panoptic JSON")
        truth["categories"] = self._categories(truth)
        with tempfile.TemporaryDirectory(prefix="panoptic_truth") as folder:
            root = self._metadata.panoptic_root
            truth, root = described_panoptic(self._name, truth, root, folder)
            pairs = self._pairs(truth["annotations"], predictions, root)
            categories = {entry["id"]: entry for entry in truth["categories"]}
            qualities = self._qualities(pairs, categories, root)
        self._save({**truth, "annotations": predictions})
        _print_panoptic_results(qualities)
        return {"panoptic_seg": _panoptic_result(qualities)}

    @property
    def _name(self) -> str:
        return self._metadata.name

    def _keep(self, predictions: list[dict[str, Any]]) -> dict[str, Any]:
        """Writes the predictions of a data set without labels, and the panoptic maps beside."""
        folder = Path(self._output_dir or ".", "panoptic_predictions")
        for prediction in predictions:
            path = folder / prediction["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(prediction["png_string"])
        self._save({"annotations": predictions, "categories": self._categories({})})
        _logger.warning(
            "Data set %s has no panoptic_json, so there is nothing to compare: no panoptic "
            "results; the predictions are in %s",
            self._name,
            folder,
        )
        return {}

    def _categories(self, truth: dict[str, Any]) -> list[dict[str, Any]]:
        """The categories; what the JSON does not say comes from the metadata."""
        things, stuff = (
            self._metadata.get(f"{kind}_dataset_id_to_contiguous_id") for kind in ("thing", "stuff")
        )
        listed = truth.get("categories") or [
            {"id": each, "name": self._metadata.stuff_classes[number]}
            for each, number in {**stuff, **things}.items()
        ]
        return [{"isthing": int(entry["id"] in things), **entry} for entry in listed]

    def _pairs(
        self, truth: list[dict[str, Any]], predictions: list[dict[str, Any]], root: str
    ) -> list[tuple[dict, dict]]:
        """The annotation, complete, and the prediction of each image; maps are below ``root``."""
        found = {prediction["image_id"]: prediction for prediction in predictions}
        if len(found) < len(predictions):
            shared = Counter(prediction["image_id"] for prediction in predictions).most_common(1)
            raise InputError(
                f"{shared[0][1]} pictures of data set {self._name} have the image_id "
                f"{shared[0][0]!r}; give each its own"
            )
        pairs, missing = [], []
        for entry in truth:
            # The id of a sample that has none is its path.
            name = Path(entry["file_name"]).with_suffix("").as_posix()
            prediction = found.get(picture_id(entry["image_id"]), found.get(name))
            if prediction is None:
                missing.append(entry["image_id"])
            else:
                pairs.append((_complete(entry, root), prediction))
        if missing:
            raise InputError(
                f"{len(missing)} images of {self._metadata.panoptic_json} have no prediction, such "
                f"as {missing[0]}; its images and those of data set {self._name} must be the same"
            )
        return pairs

    def _qualities(
        self, pairs: list[tuple[dict, dict]], categories: dict[int, dict], root: str
    ) -> dict[str, dict[str, float]]:
        """``pq``, ``sq``, ``rq``, 0..1, and the number of classes ``n``, by group of classes."""
        from panopticapi.evaluation import pq_compute_multi_core

        with tempfile.TemporaryDirectory(prefix="panoptic_eval") as folder:
            numbered = []
            for number, (entry, prediction) in enumerate(pairs):
                Path(folder, f"{number}.png").write_bytes(prediction["png_string"])
                numbered.append((entry, {**prediction, "file_name": f"{number}.png"}))
            with contextlib.redirect_stdout(io.StringIO()):
                count = pq_compute_multi_core(numbered, root, folder, categories)
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


def _complete(entry: dict[str, Any], root: str) -> dict[str, Any]:
    """An annotation whose segments all have ``iscrowd`` and ``area``, which are optional."""
    segments = [{"iscrowd": 0, **segment} for segment in entry["segments_info"]]
    if not all("area" in segment for segment in segments):
        ids = read_panoptic_map(str(Path(root, entry["file_name"])), segments).ids
        segments = [{"area": int((ids == s["id"]).sum()), **s} for s in segments]
    return {**entry, "segments_info": segments}


def _shorten_names(predictions: list[dict[str, Any]]) -> None:
    """Names the panoptic maps by the base names of their pictures where these differ."""
    names = [Path(prediction["file_name"]).name for prediction in predictions]
    number = Counter(names)
    for name, prediction in zip(names, predictions, strict=True):
        if number[name] == 1:
            prediction["file_name"] = name


def _panoptic_result(qualities: dict[str, dict[str, float]]) -> dict[str, float]:
    """Percentages under Detectron2's names."""
    suffixes = {"All": "", "Things": "_th", "Stuff": "_st"}
    return {
        measure.upper() + suffix: 100 * qualities[group][measure]
        for group, suffix in suffixes.items()
        for measure in ("pq", "sq", "rq")
    }
