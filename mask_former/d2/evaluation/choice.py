"""Which evaluators a data set gets, by its ``evaluator_type`` and by the results of the model."""

import importlib.util
import inspect
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, cityscapes_evaluation

from ..data.datasets import register_descriptions
from ..errors import InputError
from .cityscapes import (
    SharedCityscapesInstanceEvaluator,
    SharedCityscapesSemSegEvaluator,
)
from .instance import InstanceEvaluator
from .panoptic import CheckedPanopticEvaluator
from .semantic import CheckedSemSegEvaluator

_TEST = "MODEL.MASK_FORMER.TEST"


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
    """The makers of the evaluators of :func:`build_evaluator`.

    It raises as that does, but reads no file; also where a package is missing that an evaluator
    will need, so that a trainer knows before the first step.
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
    for part in parts:
        part.check_packages(dataset_name)
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
    return CheckedSemSegEvaluator(dataset_name, distributed=True, output_dir=folder)


def _check_panopticapi(dataset_name: str) -> None:
    _require("panopticapi", dataset_name, "python tools/install_detectron2.py")


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
            "that only its authors have; evaluate with Detectron2 0.6, which `python "
            "tools/install_detectron2.py` installs"
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


class _Part(NamedTuple):
    """One evaluator of several."""

    needs: str
    """The key that has the model give its results."""
    make: Callable[[str, str], DatasetEvaluator]
    annotations: str = ""
    """The metadata without which it is left out."""
    check_packages: Callable[[str], None] = lambda _: None
    """Refuses the data set, by its name, where a package is missing."""


_SEMANTIC = _Part("SEMANTIC_ON", _semantic)
_PANOPTIC = _Part("PANOPTIC_ON", CheckedPanopticEvaluator, check_packages=_check_panopticapi)
_INSTANCE = _Part("INSTANCE_ON", InstanceEvaluator, "json_file")
_CITYSCAPES_SEMANTIC = _Part(
    "SEMANTIC_ON", _cityscapes_semantic, check_packages=_check_cityscapesscripts
)
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
