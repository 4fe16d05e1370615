"""Which evaluators a data set gets, by its ``evaluator_type`` and by the results of the model."""

import importlib.util
import inspect
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, cityscapes_evaluation

from ..data.checks import check_pictures
from ..data.datasets import register_descriptions
from ..data.json_files import check_instances
from ..errors import InputError
from .boundary import BoundaryEvaluator
from .cityscapes import (
    SharedCityscapesInstanceEvaluator,
    SharedCityscapesSemSegEvaluator,
)
from .instance import InstanceEvaluator, InstancePredictions
from .panoptic import CheckedPanopticEvaluator
from .semantic import CheckedSemSegEvaluator, SemanticPredictions

_TEST = "MODEL.MASK_FORMER.TEST"


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """The evaluators that the data set's ``evaluator_type`` asks for and the model can serve.

    Args:
        cfg: the whole configuration.
        dataset_name: a registered data set.
        output_folder: for predictions and results; default ``OUTPUT_DIR/inference``. Where
            ``DATASETS.TEST`` names several data sets, each has a folder of its name in it.

    Raises:
        NotImplementedError: of an ``evaluator_type`` that is not known; Detectron2 then skips the
            data set and says so.
        InputError: the model gives none of the results that the data set is evaluated on.
    """
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    if len(cfg.DATASETS.TEST) > 1:
        folder = os.path.join(folder, dataset_name)
    evaluators = [make(dataset_name, folder) for make in choose_evaluators(cfg, dataset_name)]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def choose_evaluators(
    cfg: CfgNode, dataset_name: str
) -> list[Callable[[str, str], DatasetEvaluator]]:
    """The makers of the evaluators of :func:`build_evaluator`.

    It raises as that does, but reads no picture; also where a package, labels or an entry of the
    metadata are missing that an evaluator will need, so that a trainer knows before the first step.
    """
    register_descriptions(cfg)
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type")
    if kind not in _EVALUATORS:
        raise NotImplementedError(
            f"data set {dataset_name} has the evaluator_type {kind!r}; known are "
            f"{', '.join(_EVALUATORS)}"
        )
    given = _results_given(cfg)
    parts = [part for part in _EVALUATORS[kind] if part.needs in given]
    if not parts:
        raise InputError(_nothing_to_evaluate(cfg, dataset_name, kind))
    if kind in _INSTANCES_OF_PANOPTIC and cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON:
        part = _INSTANCES_OF_PANOPTIC[kind]
        parts += [part] if part.needs in given and metadata.get(part.annotations) else []
    if cfg.TEST.BOUNDARY_IOU:
        if _SEMANTIC not in parts or not _are_labelled(dataset_name):
            raise InputError(
                "TEST.BOUNDARY_IOU compares semantic results with label maps, and data set "
                f"{dataset_name}, evaluated as {kind}, is not compared so; turn it off, or name "
                "another data set in DATASETS.TEST"
            )
        parts.append(_BOUNDARY)
    for part in parts:
        part.check(dataset_name)
    return [part.make for part in parts]


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


def _semantic(dataset_name: str, folder: str) -> DatasetEvaluator:
    if not _are_labelled(dataset_name):
        return SemanticPredictions(dataset_name, folder)
    return CheckedSemSegEvaluator(dataset_name, distributed=True, output_dir=folder)


def _boundary(dataset_name: str, folder: str) -> DatasetEvaluator:
    return BoundaryEvaluator(dataset_name, distributed=True)


def _instance(dataset_name: str, folder: str) -> DatasetEvaluator:
    is_labelled = MetadataCatalog.get(dataset_name).get("json_file")
    return (InstanceEvaluator if is_labelled else InstancePredictions)(dataset_name, folder)


def _are_labelled(dataset_name: str) -> bool:
    """Whether the pictures have label maps, all or none."""
    samples = DatasetCatalog.get(dataset_name)
    without = [x["file_name"] for x in samples if "sem_seg_file_name" not in x]
    if without and len(without) < len(samples):
        raise InputError(
            f"{len(without)} of the {len(samples)} pictures of data set {dataset_name} have no "
            f"sem_seg_file_name, such as {without[0]}; register them as a data set of their own, "
            "which is predicted and not evaluated"
        )
    return not without


def _check_semantic(dataset_name: str) -> None:
    keys = ("stuff_classes", "ignore_label") if _are_labelled(dataset_name) else ()
    _require_metadata(dataset_name, *keys)
    _require_ids(dataset_name, "stuff")


def _check_panoptic(dataset_name: str) -> None:
    keys = ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id")
    is_labelled = MetadataCatalog.get(dataset_name).get("panoptic_json")
    _require_metadata(dataset_name, *keys, "panoptic_root" if is_labelled else "stuff_classes")
    _require_ids(dataset_name, "stuff", "thing")
    _require("panopticapi", dataset_name, "mask_former install-detectron2")


def _check_instances(dataset_name: str) -> None:
    if path := MetadataCatalog.get(dataset_name).get("json_file"):
        listed = check_instances(path).pictures
        check_pictures(dataset_name, DatasetCatalog.get(dataset_name), path, listed)


def _require_metadata(dataset_name: str, *keys: str) -> None:
    metadata = MetadataCatalog.get(dataset_name)
    if missing := [key for key in keys if metadata.get(key) is None]:
        raise InputError(
            f"the metadata of data set {dataset_name} have no {missing[0]}, which its evaluation "
            "needs; set it where the data set is registered"
        )


def _cityscapes_semantic(dataset_name: str, folder: str) -> DatasetEvaluator:
    return SharedCityscapesSemSegEvaluator(dataset_name)


def _cityscapes_instance(dataset_name: str, folder: str) -> DatasetEvaluator:
    return SharedCityscapesInstanceEvaluator(dataset_name)


def _check_cityscapesscripts(dataset_name: str) -> None:
    source = inspect.getsource(cityscapes_evaluation)
    # Detectron2's main branch, in which the import of cityscapesscripts has been replaced.
    if "deeplearning.projects" in source and importlib.util.find_spec("deeplearning") is None:
        raise InputError(
            f"the evaluation of {dataset_name} by this Detectron2 imports `deeplearning`, a module "
            "that only its authors have; evaluate with Detectron2 0.6, which `mask_former "
            "install-detectron2` installs"
        )
    _require("cityscapesscripts", dataset_name, "pip install cityscapesscripts")
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":  # it would fail after the last image
        raise InputError(
            f"the evaluation of {dataset_name} needs cityscapesscripts, whose version 2.3 fails "
            f"with NumPy {np.__version__}; evaluate with NumPy 1.26"
        )


def _require(package: str, dataset_name: str, command: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"the evaluation of {dataset_name} needs {package}; install it with `{command}`"
        )


def _require_ids(dataset_name: str, *kinds: str) -> None:
    """Refuses classes that the metadata give no id, under which they would be written."""
    metadata = MetadataCatalog.get(dataset_name)
    ids = [metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {} for kind in kinds]
    given = {number for table in ids for number in table.values()}
    for number, name in enumerate(metadata.get("stuff_classes") or ()):
        if given and number not in given:
            raise InputError(
                f"class {number} ({name}) of data set {dataset_name} is no value of "
                f"{' or '.join(kinds)}_dataset_id_to_contiguous_id in its metadata; add it where "
                "the data set is registered"
            )


class _Part(NamedTuple):
    """One evaluator of several."""

    needs: str
    """The key that has the model give its results."""
    make: Callable[[str, str], DatasetEvaluator]
    annotations: str = ""
    """The metadata without which it is left out."""
    check: Callable[[str], None] = lambda _: None
    """Refuses the data set, by its name, where a package or something in it is missing."""


_SEMANTIC = _Part("SEMANTIC_ON", _semantic, check=_check_semantic)
_BOUNDARY = _Part("SEMANTIC_ON", _boundary)
_PANOPTIC = _Part("PANOPTIC_ON", CheckedPanopticEvaluator, check=_check_panoptic)
_INSTANCE = _Part("INSTANCE_ON", _instance, "json_file", _check_instances)
_CITYSCAPES_SEMANTIC = _Part("SEMANTIC_ON", _cityscapes_semantic, check=_check_cityscapesscripts)
_CITYSCAPES_INSTANCE = _Part(
    "INSTANCE_ON", _cityscapes_instance, "gt_dir", _check_cityscapesscripts
)
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
