"""Defaults, and the configurations of the project."""

from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

from mask_former.d2.config import add_mask_former_config, get_mask_former_cfg, load_config
from mask_former.d2.configuring.merging import merge_yaml
from mask_former.d2.errors import InputError
from tests.golden_numbers import flat

CONFIGS = Path(__file__).parents[2] / "configs"
OURS = {f"MODEL.MASK_FORMER.{name}" for name in ("MASK_DECODER", "CRITERION", "MATCHER")}
OURS |= {
    f"MODEL.MASK_FORMER.{name}"
    for name in ("TRAIN_NUM_POINTS", "OVERSAMPLE_RATIO", "IMPORTANCE_SAMPLE_RATIO", "VALID_MASK")
}
OURS |= {"DATASETS.DESCRIPTIONS"}
OURS |= {f"MODEL.{name}" for name in ("COMPILE", "CHANNELS_LAST", "RESNETS.USE_CHECKPOINT")}
OURS |= {"MODEL.CLASSES_BY_NAME"}
OURS |= {f"MODEL.IMAGE_MODEL.{name}" for name in ("NAME", "WEIGHTS", "OUT_FEATURES")}
OURS |= {"MODEL.SWIN.USE_CHECKPOINT", "SOLVER.AMP.DTYPE", "TEST.AUG.RESIZE_TWICE"}
OURS |= {
    f"SOLVER.{name}"
    for name in ("DETERMINISTIC", "ACCUMULATE", "EMA_DECAY", "FREEZE", "CHECKPOINTS_KEPT")
}
OURS |= {f"TEST.{name}" for name in ("BEST_METRIC", "BOUNDARY_IOU", "PATIENCE", "LOSS")}
OURS |= {"INPUT.SCALE_JITTER", "WANDB_PROJECT", "MODEL.MASK_FORMER.CLASS_WEIGHTS"}
OURS |= {
    f"MODEL.MASK_FORMER.TEST.{name}"
    for name in ("SEMANTIC_ON", "INSTANCE_ON", "SEMANTIC_INFERENCE", "SEM_SEG_OUTPUT", "TILES")
}
MS512 = (256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, 972, 1024)


def load(path: str | Path) -> CfgNode:
    cfg = get_mask_former_cfg()
    merge_yaml(cfg, str(path))
    return cfg


def test_defaults(golden):
    added = flat(get_mask_former_cfg())
    plain = get_cfg()
    add_deeplab_config(plain)
    expected = flat(yaml.safe_load((golden / "cfgs" / "defaults.yaml").read_text()))
    assert {key: added[key] for key in expected} == expected
    assert added.keys() - flat(plain).keys() - OURS <= expected.keys()


def test_defaults_by_hand():
    cfg = get_mask_former_cfg()
    assert cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES == 100
    assert cfg.MODEL.MASK_FORMER.MASK_WEIGHT == 20.0
    assert cfg.MODEL.MASK_FORMER.MATCHER == "bipartite"
    assert cfg.MODEL.SEM_SEG_HEAD.MASK_DIM == 256
    assert cfg.INPUT.SIZE_DIVISIBILITY == -1
    assert cfg.SOLVER.OPTIMIZER == "ADAMW"
    assert cfg.MODEL.RESNETS.STEM_TYPE == "deeplab"  # DeepLab's key


def test_deeplab_may_come_after():
    cfg = get_cfg()
    add_mask_former_config(cfg)
    add_deeplab_config(cfg)
    assert cfg == get_mask_former_cfg()


def test_ade20k_by_hand():
    cfg = load(CONFIGS / "ade20k-150" / "maskformer_R101c_bs16_160k.yaml")
    assert cfg.MODEL.BACKBONE.NAME == "build_resnet_deeplab_backbone"
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 150
    assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE == 0.01
    assert cfg.INPUT.MIN_SIZE_TRAIN == MS512
    assert cfg.DATASETS.TRAIN == ("ade20k_sem_seg_train",)


def test_camvid():
    cfg = load(CONFIGS / "camvid-11" / "maskformer_R50_bs16_10k.yaml")
    assert cfg.MODEL.WEIGHTS == ""
    assert cfg.MODEL.RESNETS.NORM == "BN"  # a norm that trains
    assert cfg.SOLVER.BACKBONE_MULTIPLIER == 1.0
    assert (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE) == (11, 11)
    assert all(size % 32 == 0 for size in cfg.INPUT.CROP.SIZE)
    assert "test" not in "".join(cfg.DATASETS.TRAIN + cfg.DATASETS.TEST)


def test_valid_pixels_are_told_in_our_configurations_alone():
    told = {path for path in CONFIGS.rglob("*.yaml") if load(path).MODEL.MASK_FORMER.VALID_MASK}
    ours = [*(CONFIGS / "shapes").iterdir(), *(CONFIGS / "camvid-11").rglob("*.yaml")]
    assert told == {path for path in ours if load(path).MODEL.META_ARCHITECTURE == "MaskFormer"}
    assert len(told) == 5


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_is_plain_yaml(path):
    assert "!!" not in path.read_text(encoding="utf-8")
    assert load(path).VERSION == 2


SHAPES = str(CONFIGS / "shapes" / "maskformer_panoptic_tiny.yaml")
AMP = ["SOLVER.AMP.ENABLED", "True"]


def without_a_gpu(monkeypatch):
    """As on a machine whose torch reaches the CPU alone."""
    empty = torch.empty

    def refuse(*size, device):
        if not str(device).startswith("cpu"):
            raise RuntimeError(f"no {device}.\nmore lines")
        return empty(*size, device=device)

    monkeypatch.setattr(torch, "empty", refuse)


def test_opts_override_the_file_and_the_device_both():
    opts = ["MODEL.MASK_FORMER.DEC_LAYERS", "5", "MODEL.DEVICE", "nowhere"]
    cfg = load_config(SHAPES, opts, device="cpu")
    assert cfg.MODEL.MASK_FORMER.DEC_LAYERS == 5
    assert cfg.MODEL.BACKBONE.NAME == "build_tiny_resnet_backbone"
    assert cfg.MODEL.DEVICE == "cpu"
    assert not cfg.is_frozen()


def test_the_default_device_falls_back_to_the_cpu(monkeypatch, caplog):
    without_a_gpu(monkeypatch)
    cfg = load_config(opts=AMP)
    assert cfg.MODEL.DEVICE == "cpu"
    assert not cfg.SOLVER.AMP.ENABLED  # float16
    assert [record.getMessage() for record in caplog.records] == [
        "cuda cannot be used here; going on with the CPU"
    ]


def test_the_device_of_a_file_falls_back_to_the_cpu(monkeypatch, tmp_path):
    without_a_gpu(monkeypatch)
    (tmp_path / "saved.yaml").write_text("MODEL: {DEVICE: 'cuda:1'}\n")
    assert load_config(str(tmp_path / "saved.yaml")).MODEL.DEVICE == "cpu"


@pytest.mark.parametrize("named", ["opts", "device"])
@pytest.mark.parametrize("device", ["mps", "cuda:1", "nonsense"])
def test_a_device_that_is_named_and_not_there_is_refused(monkeypatch, named, device):
    without_a_gpu(monkeypatch)
    given = {"opts": ["MODEL.DEVICE", device]} if named == "opts" else {"device": device}
    with pytest.raises(InputError) as caught:
        load_config(SHAPES, **given)
    assert str(caught.value) == (
        f"MODEL.DEVICE is {device!r}, which cannot be used here: no {device}; give cpu, or leave "
        "it out"
    )


@pytest.mark.parametrize("device", ["hpu", "xpu", "xla", "gpu", ""])
def test_torchs_own_refusals_of_devices(device):
    """Each is of another class."""
    with pytest.raises(InputError, match="cannot be used here: "):
        load_config(opts=["MODEL.DEVICE", device])


def test_a_device_that_is_there_is_kept(monkeypatch, caplog):
    monkeypatch.setattr(torch, "empty", lambda *size, device: None)
    assert load_config(opts=AMP).MODEL.DEVICE == "cuda"
    cfg = load_config(opts=["MODEL.DEVICE", "mps", *AMP])
    assert cfg.MODEL.DEVICE == "mps"
    assert cfg.SOLVER.AMP.ENABLED
    assert not caplog.records


@pytest.mark.parametrize(
    ("opts", "device", "enabled"),
    [
        ([], "cpu", False),
        (["SOLVER.AMP.DTYPE", "bfloat16"], "cpu", True),
        (["MODEL.DEVICE", "cpu"], None, True),  # asked for; the trainer warns
    ],
)
def test_mixed_precision_on_a_cpu(opts, device, enabled):
    assert enabled == load_config(opts=[*AMP, *opts], device=device).SOLVER.AMP.ENABLED
