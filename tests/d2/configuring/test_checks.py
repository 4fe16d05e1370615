"""Configurations that are refused before anything is built, and those that are not."""

import math
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.projects.deeplab import add_deeplab_config

from mask_former.d2.build.model import build_model
from mask_former.d2.config import get_mask_former_cfg, load_config
from mask_former.d2.configuring.checks import check_config, leaves
from mask_former.d2.configuring.keys import KEYS
from mask_former.d2.data.mappers import MaskFormerSemanticDatasetMapper
from mask_former.d2.errors import InputError
from mask_former.d2.solver import check_solver
from tests.d2 import tiny_models as tiny

CONFIGS = Path(__file__).parents[3] / "configs"


def test_every_configuration_of_the_project_is_right():
    paths = sorted(CONFIGS.rglob("*.yaml"))
    for path in paths:
        check_config(load_config(str(path), device="cpu"))
    assert len(paths) > 40


def test_the_defaults_are_right_as_they_are():
    check_config(get_mask_former_cfg())


def test_all_our_keys_are_in_the_table_and_no_other_than_there_are():
    plain = get_cfg()
    add_deeplab_config(plain)
    ours = dict(leaves(get_mask_former_cfg()))
    assert ours.keys() - dict(leaves(plain)).keys() <= KEYS.keys() <= ours.keys()


def test_every_row_says_what_it_means_and_whose_it_is():
    for key, (rule, meaning, source) in KEYS.items():
        assert rule.allowed, key
        assert meaning, key
        assert not meaning.endswith("."), key
        assert source.split()[0] in {
            "paper",
            "original",
            "Detectron2",
            "DeepLab",
            "Swin",
            "ours",
        }, key


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"MODEL.PIXEL_STD": [1.0, 2.0]}, "PIXEL_MEAN has 3 numbers, MODEL.PIXEL_STD 2, but an"),
        ({"MODEL.PIXEL_MEAN": [1.0], "MODEL.PIXEL_STD": [1.0]}, "INPUT.FORMAT BGR 3 channels"),
        ({"INPUT.FORMAT": "L"}, "INPUT.FORMAT L 1 channels"),
        ({"MODEL.PIXEL_STD": [1.0, 0.0, 1.0]}, "PIXEL_STD is [1.0, 0.0, 1.0]; give a list of"),
        ({"MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 2}, "IGNORE_VALUE is 2, the number of a class"),
        ({"INPUT.MIN_SIZE_TRAIN_SAMPLING": "range"}, "MIN_SIZE_TRAIN is (800,), of which"),
        (
            {"INPUT.MIN_SIZE_TRAIN_SAMPLING": "range", "INPUT.MIN_SIZE_TRAIN": (9, 8)},
            "MIN_SIZE_TRAIN is (9, 8), of which",
        ),
        ({"INPUT.CROP.ENABLED": True, "INPUT.CROP.SIZE": [2, 2]}, "relative_range means shares"),
        (
            {"INPUT.CROP.ENABLED": True, "INPUT.CROP.TYPE": "absolute"},
            "INPUT.CROP.SIZE is [0.9, 0.9], but INPUT.CROP.TYPE absolute means pixels",
        ),
        (
            {
                "INPUT.CROP.ENABLED": True,
                "INPUT.CROP.TYPE": "absolute_range",
                "INPUT.CROP.SIZE": [9, 8],
            },
            "INPUT.CROP.SIZE is [9, 8], but INPUT.CROP.TYPE absolute_range",
        ),
        ({"SOLVER.STEPS": (20, 10)}, "SOLVER.STEPS is [20, 10]; give iterations in rising order"),
        ({"SOLVER.MAX_ITER": 0}, "SOLVER.MAX_ITER is 0, over which"),
        (
            {"MODEL.RESNETS.NORM": "GN"},
            "RESNETS.STEM_OUT_CHANNELS is 8, of which MODEL.RESNETS.NORM GN cannot make 32 groups",
        ),
        (
            {"MODEL.BACKBONE.NAME": "build_resnet_backbone", "MODEL.RESNETS.DEPTH": 18},
            "RES2_OUT_CHANNELS is 8, but MODEL.BACKBONE.NAME build_resnet_backbone with MODEL.",
        ),
        (
            {"MODEL.BACKBONE.NAME": "build_resnet_backbone", "MODEL.RESNETS.RES5_DILATION": 4},
            "RES5_DILATION is 4, but",
        ),
        (
            {
                "MODEL.BACKBONE.NAME": "build_resnet_deeplab_backbone",
                "MODEL.RESNETS.RES4_DILATION": 2,
            },
            "RES5_DILATION is 1, but",
        ),
        ({"MODEL.MASK_FORMER.NHEADS": 5}, "HIDDEN_DIM is 32, MODEL.MASK_FORMER.NHEADS 5; the wid"),
        ({"INPUT.DATASET_MAPPER_NAME": "mask_former_semantc"}, "did you mean mask_former_semant"),
        ({"OUTPUT_DIR": ""}, "OUTPUT_DIR is ''; give a name"),
    ],
)
def test_keys_that_contradict_each_other(options, expected):
    with pytest.raises(InputError) as caught:
        tiny.make_cfg(options)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"INPUT.FORMAT": "L", "MODEL.PIXEL_MEAN": [1.0], "MODEL.PIXEL_STD": [1.0]},
        {"INPUT.CROP.SIZE": [2, 2]},  # no crop
        {"SOLVER.MAX_ITER": 0, "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR"},
        {"MODEL.BACKBONE.NAME": "build_resnet_backbone", "MODEL.RESNETS.NORM": "BN"},
        {"INPUT.DATASET_MAPPER_NAME": "mine"},
        {**tiny.BASELINE, "MODEL.MASK_FORMER.NHEADS": 5},  # there is no transformer
        {"SEED": -1},
        {"MODEL.SWIN.DEPTHS": [2]},  # another backbone is used
    ],
)
def test_odd_but_right(options):
    tiny.make_cfg(options)


def test_values_that_python_has_set():
    cfg = get_mask_former_cfg()
    cfg.MODEL.RPN.NMS_THRESH = math.nan  # a key that nothing here reads
    with pytest.raises(InputError, match=r"MODEL\.RPN\.NMS_THRESH is nan; give finite numbers"):
        check_config(cfg)


def test_the_place_is_told_where_it_is_known(tmp_path):
    (tmp_path / "base.yaml").write_text("SOLVER:\n  MAX_ITER: 5\n  BASE_LR: -1\n")
    path = tmp_path / "a.yaml"
    path.write_text("_BASE_: base.yaml\n\nSOLVER: {MOMENTUM: 2}\n")
    with pytest.raises(InputError) as caught:
        load_config(str(path), device="cpu")
    assert str(caught.value) == f"{tmp_path}/base.yaml, line 3: SOLVER.BASE_LR is -1.0; give a " + (
        "number of 0 or more"
    )
    with pytest.raises(InputError, match=r"a\.yaml, line 3: SOLVER\.MOMENTUM is 2\.0; give a num"):
        load_config(str(path), ["SOLVER.BASE_LR", "1"], device="cpu")
    with pytest.raises(InputError, match=r"^command line: SOLVER\.MOMENTUM is 3"):
        load_config(str(path), ["SOLVER.BASE_LR", "1", "SOLVER.MOMENTUM", "3"], device="cpu")


def test_whoever_builds_is_asked():
    """Others' programs build models, mappers and optimizers without load_config."""
    cfg = tiny.make_cfg({})
    cfg.MODEL.MASK_FORMER.DROPOUT = 2.0
    for build in (
        build_model,
        check_solver,
        lambda cfg: MaskFormerSemanticDatasetMapper(cfg, True),
    ):
        with pytest.raises(InputError, match=r"DROPOUT is 2\.0; give a number from 0 to 1"):
            build(cfg)


def test_a_model_is_not_built_for_a_device_that_is_not_there():
    cfg = tiny.make_cfg({})
    cfg.MODEL.DEVICE = "gpu"
    with pytest.raises(InputError, match=r"MODEL\.DEVICE is 'gpu', which cannot be used here"):
        build_model(cfg)
