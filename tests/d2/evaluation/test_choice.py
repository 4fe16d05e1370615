"""Which evaluators a data set gets, and what is said where one cannot be had."""

import sys

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluators

from mask_former.d2.errors import InputError
from mask_former.d2.evaluation.cityscapes import (
    SharedCityscapesInstanceEvaluator,
    SharedCityscapesSemSegEvaluator,
)
from mask_former.d2.evaluation.instance import InstanceEvaluator
from mask_former.d2.evaluation.panoptic import CheckedPanopticEvaluator
from mask_former.d2.evaluation.semantic import CheckedSemSegEvaluator


@pytest.fixture
def usable_cityscapes(monkeypatch):
    """For the choice of evaluators alone: NumPy as cityscapesscripts expects it."""
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)


def types_of(evaluator) -> list[type]:
    several = isinstance(evaluator, DatasetEvaluators)
    assert not several or len(evaluator._evaluators) > 1
    return [type(part) for part in (evaluator._evaluators if several else [evaluator])]


@pytest.mark.usefixtures("usable_cityscapes")
@pytest.mark.parametrize(
    ("evaluator_type", "expected"),
    [
        ("sem_seg", [CheckedSemSegEvaluator]),
        ("ade20k_panoptic_seg", [CheckedSemSegEvaluator, CheckedPanopticEvaluator]),
        ("coco", [InstanceEvaluator]),
        ("coco_panoptic_seg", [CheckedPanopticEvaluator]),
        ("cityscapes_panoptic_seg", [CheckedPanopticEvaluator, SharedCityscapesSemSegEvaluator]),
        ("cityscapes_instance", [SharedCityscapesInstanceEvaluator]),
        ("cityscapes_sem_seg", [SharedCityscapesSemSegEvaluator]),
    ],
)
def test_selection(evaluator_type, expected, build):
    assert types_of(build(evaluator_type)) == expected


@pytest.mark.usefixtures("usable_cityscapes")
@pytest.mark.parametrize(
    ("evaluator_type", "given", "expected"),
    [
        ("ade20k_panoptic_seg", "SP", [CheckedSemSegEvaluator, CheckedPanopticEvaluator]),
        ("ade20k_panoptic_seg", "S", [CheckedSemSegEvaluator]),
        ("ade20k_panoptic_seg", "PI", [CheckedPanopticEvaluator, InstanceEvaluator]),
        ("coco_panoptic_seg", "SP", [CheckedPanopticEvaluator]),
        ("coco_panoptic_seg", "SPI", [CheckedPanopticEvaluator, InstanceEvaluator]),
        ("coco", "SI", [InstanceEvaluator]),
        ("cityscapes_panoptic_seg", "S", [SharedCityscapesSemSegEvaluator]),
    ],
)
def test_selection_by_the_results_of_the_model(evaluator_type, given, expected, build):
    assert types_of(build(evaluator_type, "MaskFormer", given)) == expected


@pytest.mark.usefixtures("usable_cityscapes")
def test_instances_of_cityscapes_panoptic(tmp_path, data_set, build):
    MetadataCatalog.get(data_set).gt_dir = str(tmp_path)
    evaluator = build("cityscapes_panoptic_seg", "MaskFormer", "PI")
    assert types_of(evaluator) == [CheckedPanopticEvaluator, SharedCityscapesInstanceEvaluator]


def test_panoptic_set_without_instances(data_set, build):
    del MetadataCatalog.get(data_set).json_file
    evaluator = build("coco_panoptic_seg", "MaskFormer", "PI")
    assert types_of(evaluator) == [CheckedPanopticEvaluator]


@pytest.mark.usefixtures("usable_cityscapes")
@pytest.mark.parametrize(
    ("evaluator_type", "given", "key"),
    [
        ("sem_seg", "PI", "SEMANTIC_ON"),
        ("ade20k_panoptic_seg", "I", "SEMANTIC_ON or MODEL.MASK_FORMER.TEST.PANOPTIC_ON"),
        ("coco_panoptic_seg", "SI", "PANOPTIC_ON"),
        ("coco", "SP", "INSTANCE_ON"),
        ("cityscapes_instance", "S", "INSTANCE_ON"),
    ],
)
def test_result_that_the_model_does_not_give(evaluator_type, given, key, data_set, build):
    message = (
        rf"{data_set} is evaluated as {evaluator_type},.* set MODEL.MASK_FORMER.TEST.{key} True"
    )
    with pytest.raises(InputError, match=message):
        build(evaluator_type, "MaskFormer", given)


def test_results_of_a_per_pixel_model(build):
    evaluator = build("ade20k_panoptic_seg", "SemanticSegmentor", "SPI")
    assert types_of(evaluator) == [CheckedSemSegEvaluator]


def test_result_that_a_per_pixel_model_cannot_give(build):
    with pytest.raises(
        InputError, match=r"coco_panoptic_seg.*\"SemanticSegmentor\" gives semantic"
    ):
        build("coco_panoptic_seg", "SemanticSegmentor", "SPI")


@pytest.mark.parametrize("evaluator_type", ["lvis", None])
def test_unknown_type(evaluator_type, data_set, build):
    with pytest.raises(NotImplementedError, match=rf"{data_set}.*known are sem_seg"):
        build(evaluator_type)


@pytest.mark.usefixtures("usable_cityscapes")
@pytest.mark.parametrize(
    ("evaluator_type", "package", "command"),
    [
        ("coco_panoptic_seg", "panopticapi", "mask_former install-detectron2"),
        ("cityscapes_sem_seg", "cityscapesscripts", "pip install cityscapesscripts"),
        ("cityscapes_instance", "cityscapesscripts", "pip install cityscapesscripts"),
    ],
)
def test_without_a_package(monkeypatch, evaluator_type, package, command, data_set, build):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        InputError, match=rf"{data_set} needs {package}; install it with `{command}`"
    ):
        build(evaluator_type)


@pytest.mark.parametrize("kind", ["sem_seg", "coco_panoptic_seg"])
def test_a_class_without_an_id(data_set, build, kind):
    metadata = MetadataCatalog.get(data_set)
    del metadata.stuff_dataset_id_to_contiguous_id
    metadata.stuff_dataset_id_to_contiguous_id = {0: 0}
    with pytest.raises(InputError, match=rf"class 1 .sky. of data set {data_set} is no value of"):
        build(kind)
