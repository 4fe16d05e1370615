"""Whether an exported file gives what the model gives, picture by picture and on a data set."""

import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import BitMasks, Instances
from torch import nn

from ...runtime import VOID, Model, read_picture
from ..errors import InputError
from ..evaluation.choice import build_evaluator
from ..predictor import Predictor
from ..trainer import Trainer
from .graph import TASK_KEYS, ExportedModel, best

FLOAT_DIFFERENCE = 1e-4
"""Of logits and scores in float32, relative to the largest."""
PIXELS = {"float32": 0.9999, "float16": 0.999}
"""The least share of pixels with the same label."""
INSTANCES = {"float32": 0.99, "float16": 0.95}
"""The least share of instances that are found again."""
POINTS = {"float32": 0.1, "float16": 0.1, "int8": 1.0}
"""How far mIoU, PQ and AP may lie below the model's, of 100."""
_REPEATS = 3


class Region(NamedTuple):
    """A segment or an instance."""

    label: int
    mask: np.ndarray
    """[H, W]; bool."""
    score: float


class Found(NamedTuple):
    """What either side has found in a picture."""

    labels: np.ndarray
    """[H, W]; the class of each pixel; of raw masks, the likeliest query."""
    numbers: Sequence[np.ndarray]
    """Logits, or scores of pixels."""
    regions: Sequence[Region]


class Report(NamedTuple):
    """How two sides agree."""

    difference: float
    """The largest of logits or scores, relative to the largest of them."""
    pixels: float
    """Share of the pixels that have the same label."""
    matched: int
    """Regions of the model that are found again: of the class, with an IoU above a half."""
    regions: int
    """Regions of the model."""
    eager: float = 0.0
    """Seconds a picture, from its pixels to its result."""
    exported: float = 0.0

    def __str__(self) -> str:
        segments = f", {self.matched} of {self.regions} segments" if self.regions else ""
        return (
            f"largest difference {self.difference:.1e} of the largest, same label for "
            f"{100 * self.pixels:.4f} % of the pixels{segments}; a picture takes "
            f"{1000 * self.eager:.0f} ms in PyTorch, {1000 * self.exported:.0f} ms exported"
        )

    def check(self, task: str, precision: str) -> None:
        """Refuses what lies beyond the bounds; int8 has none but those of ``evaluate``.

        Raises:
            InputError: something does.
        """
        if precision == "int8":
            return
        faults = []
        if task == "instance" and self.matched < INSTANCES[precision] * self.regions:
            faults.append(f"{self.matched} of {self.regions} instances are found again")
        if task != "instance" and self.pixels < PIXELS[precision]:
            share, bound = 100 * self.pixels, 100 * PIXELS[precision]
            faults.append(f"{share:.3f} % of the pixels have the same label, below {bound:g} %")
        if task != "instance" and precision == "float32" and self.difference > FLOAT_DIFFERENCE:
            faults.append(f"numbers differ by {self.difference:.1e}, above {FLOAT_DIFFERENCE:g}")
        if faults:
            raise InputError(
                f"the exported model is not the model: {'; '.join(faults)}. Nothing is written; "
                "try another --format or --precision, or --pictures of the kind that the model was "
                "trained on"
            )


def compare(
    predictor: Predictor, model: Model, pictures: Sequence[np.ndarray], task: str
) -> Report:
    """Both sides on pictures, end to end.

    Args:
        predictor: the model before it was exported; it resizes pictures as the other does.
        model: the exported one.
        pictures: [H, W, 3] each (uint8, RGB); at least one.
        task: of the file.
    """
    reports = [_compare_one(predictor, model, picture, task) for picture in pictures]
    columns = zip(*reports, strict=True)
    difference, pixels, matched, regions, eager, exported = map(np.asarray, columns)
    return Report(
        float(difference.max()),
        float(pixels.mean()),
        int(matched.sum()),
        int(regions.sum()),
        float(eager.mean()),
        float(exported.mean()),
    )


def _compare_one(predictor: Predictor, model: Model, picture: np.ndarray, task: str) -> Report:
    def eager() -> Any:
        if task != "raw":
            return predictor(picture[:, :, ::-1])
        graph = ExportedModel(predictor.model, task)
        with torch.no_grad():
            return graph(torch.from_numpy(model.feed(picture)["image"]), *picture.shape[:2])

    expected, *times = (_timed(eager) for _ in range(_REPEATS))
    found, *others = (_timed(lambda: model.tensors(picture)) for _ in range(_REPEATS))
    report = agreement(_of_eager(expected[0], task), found_in(found[0], task))
    return report._replace(
        eager=min(seconds for _, seconds in times), exported=min(seconds for _, seconds in others)
    )


def agreement(expected: Found, found: Found) -> Report:
    """How far what was found is what was expected, as a report without times."""
    pairs = list(zip(expected.numbers, found.numbers, strict=True))
    differences = [np.abs(a - b).max() / max(np.abs(a).max(), 1e-12) for a, b in pairs]
    rest, matched = list(found.regions), 0
    for region in expected.regions:
        same = [other for other in rest if other.label == region.label]
        overlaps = [_iou(region.mask, other.mask) for other in same]
        if overlaps and max(overlaps) > 0.5:
            best_one = same[int(np.argmax(overlaps))]
            rest = [other for other in rest if other is not best_one]
            differences.append(abs(best_one.score - region.score))
            matched += 1
    pixels = float((expected.labels == found.labels).mean())
    return Report(float(max(differences, default=0)), pixels, matched, len(expected.regions))


def evaluate(cfg: CfgNode, predictor: Predictor, model: Model, name: str) -> dict[str, list[float]]:
    """mIoU, PQ or AP of the model and of its file on a data set, by their names.

    Args:
        cfg: of the model.
        predictor: the model.
        model: the file, which takes pictures of any size or of one.
        name: of the data set.

    Raises:
        InputError: the data set is not there, or is not evaluated by the file's task.
    """
    cfg = cfg.clone()
    cfg.defrost()
    for task, key in TASK_KEYS.items():
        cfg.MODEL.MASK_FORMER.TEST[key] = task == model.info.task
    sides = [
        _Side(lambda picture: predictor(picture[:, :, ::-1])),
        _Side(lambda picture: as_result(model, picture)),
    ]
    found: dict[str, list[float]] = {}
    for side in sides:
        loader = Trainer.build_test_loader(cfg, name)
        with tempfile.TemporaryDirectory() as folder:
            results = inference_on_dataset(side, loader, build_evaluator(cfg, name, folder))
        for kind, key in (("sem_seg", "mIoU"), ("panoptic_seg", "PQ"), ("segm", "AP")):
            if kind in results:
                found.setdefault(key, []).append(float(results[kind][key]))
    return found


class _Side(nn.Module):
    """What Detectron2 evaluates: from pictures as their files have them to results."""

    def __init__(self, result: Callable[[np.ndarray], dict[str, Any]]) -> None:
        super().__init__()
        self.result = result

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Each side resizes for itself: what the mapper has done counts for nothing."""
        return [self.result(np.asarray(read_picture(x["file_name"]))) for x in batched_inputs]


def as_result(model: Model, picture: np.ndarray) -> dict[str, Any]:
    """What the model would give, of the tensors that its file gives."""
    pixels, *columns = (torch.from_numpy(np.array(x[0])) for x in model.tensors(picture))
    if model.info.task == "semantic":
        return {"sem_seg": pixels.long()}
    classes, scores, areas = columns
    present = classes >= 0
    if model.info.task == "instance":
        masks = pixels[present].bool()
        instances = Instances(picture.shape[:2], pred_masks=masks, scores=scores[present])
        instances.pred_boxes = BitMasks(masks).get_bounding_boxes()
        instances.pred_classes = classes[present].long()
        return {"instances": instances}
    segments = [
        {
            "id": row + 1,
            "category_id": label,
            "isthing": label in model.info.thing_ids,
            "score": float(scores[row]),
            "area": int(areas[row]),
        }
        for row, label in enumerate(classes[present].tolist())
    ]
    return {"panoptic_seg": (pixels, segments)}


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def _of_eager(result: Any, task: str) -> Found:
    if task == "raw":
        return found_in([tensor.numpy() for tensor in result], task)
    if task == "semantic":
        labels, best_scores = best(result["sem_seg"].cpu()[None])
        return Found(labels[0].numpy(), [best_scores[0].numpy()], [])
    if task == "panoptic":
        ids, infos = result["panoptic_seg"]
        masks = [(ids == info["id"]).cpu().numpy() for info in infos]
        columns = [(info["category_id"], info["score"]) for info in infos]
    else:
        instances = result["instances"].to("cpu")
        masks = list(instances.pred_masks.numpy())
        columns = list(zip(instances.pred_classes.tolist(), instances.scores.tolist(), strict=True))
    return _of_regions(
        [Region(label, mask, score) for mask, (label, score) in zip(masks, columns, strict=True)]
    )


def found_in(tensors: Sequence[np.ndarray], task: str) -> Found:
    """What the tensors of a graph or of its file, a batch of one, have found.

    Args:
        tensors: those that ``graph.OUTPUTS`` names.
        task: of the graph.
    """
    if task == "raw":
        return Found(tensors[-1].argmax(axis=1), tensors, [])
    pixels, *columns = (tensor[0] for tensor in tensors)
    if task == "semantic":
        return Found(pixels, columns, [])
    rows = np.flatnonzero(columns[0] >= 0)
    masks = [pixels[row].astype(bool) if task == "instance" else pixels == row + 1 for row in rows]
    labels, scores = columns[0][rows].tolist(), columns[1][rows].tolist()
    return _of_regions(list(map(Region, labels, masks, scores)))


def _of_regions(regions: list[Region]) -> Found:
    labels = np.full(regions[0].mask.shape if regions else (1, 1), VOID)
    for region in reversed(regions):
        labels[region.mask] = region.label
    return Found(labels, [], regions)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))
