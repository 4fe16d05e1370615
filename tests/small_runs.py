"""What a run of seconds needs: CamVid's configuration with a tiny model, and made-up images."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode
from PIL import Image
from pycocotools import mask as mask_util

from mask_former.d2.config import load_config

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "camvid-11" / "maskformer_R50_bs16_10k.yaml"
QUICK = {
    "INPUT.MIN_SIZE_TRAIN": "(32,)",
    "INPUT.CROP.SIZE": "(32, 32)",
    "INPUT.MIN_SIZE_TEST": 32,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "DATALOADER.NUM_WORKERS": 0,
}
"""Of a run of the published model."""
TINY = {
    "MODEL.BACKBONE.NAME": "build_tiny_resnet_backbone",
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 8,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 32,
    "MODEL.MASK_FORMER.DEC_LAYERS": 1,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 12,
    **QUICK,
    # From the first step on large enough to show in float32.
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.MAX_ITER": 3,
    "SEED": 1,
}
"""Of a run of a tiny model."""


def flat(options: dict[str, object]) -> list[str]:
    """KEY VALUE pairs as a command line has them."""
    return [str(part) for pair in options.items() for part in pair]


def tiny_cfg(folder: Path, options: dict[str, object] | None = None) -> CfgNode:
    """CamVid's configuration with a tiny model, which writes below a folder."""
    cfg = load_config(str(CONFIG), flat({**TINY, **(options or {})}), "cpu")
    cfg.OUTPUT_DIR = str(folder / "out")
    return cfg


def draw_images(folder: Path) -> Path:
    """Six random images in CamVid's layout; gives the folder of the training images."""
    random = np.random.RandomState(0)
    for split in ("train", "val"):
        for kind, extension, shape in (
            ("images", "jpg", (32, 40, 3)),
            ("annotations", "png", (32, 40)),
        ):
            of_kind = folder / "camvid" / kind / split
            of_kind.mkdir(parents=True)
            for i in range(3):
                values = random.randint(0, 12, shape, dtype=np.uint8)
                Image.fromarray(values).save(of_kind / f"{i}.{extension}")
    return folder / "camvid" / "images" / "train"


def accuracy(inference: Path, label_maps: Iterable[Path]) -> dict[str, float]:
    """The share of right pixels and the mean IoU, in percent, counted from what a run has written.

    Args:
        inference: the folder of ``sem_seg_predictions.json``.
        label_maps: of CamVid's classes 0 to 10; other labels are ignored.
    """
    entries = json.loads((inference / "sem_seg_predictions.json").read_text())
    predicted: dict[str, np.ndarray] = {}
    for entry in entries:
        mask = mask_util.decode(entry["segmentation"]).astype(bool)
        labels = predicted.setdefault(Path(entry["file_name"]).stem, np.full(mask.shape, -1))
        labels[mask] = entry["category_id"]
    maps = {path.stem: np.asarray(Image.open(path)) for path in label_maps}
    assert maps.keys() == predicted.keys()
    truth = np.concatenate([labels.ravel() for labels in maps.values()])
    found = np.concatenate([predicted[stem].ravel() for stem in maps])[truth < 11]
    truth = truth[truth < 11]
    shares = []
    for label in np.unique(truth):
        true, of_label = truth == label, found == label
        shares.append((true & of_label).sum() / (true | of_label).sum())
    return {"pACC": 100 * (truth == found).mean(), "mIoU": 100 * np.mean(shares)}


def assert_accuracy(results: dict[str, float], inference: Path, label_maps: Iterable[Path]) -> None:
    """The figures of an evaluation are those of the label maps that it wrote."""
    expected = accuracy(inference, label_maps)
    assert {key: results[key] for key in expected} == pytest.approx(expected)
