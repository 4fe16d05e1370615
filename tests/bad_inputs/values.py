"""Values of keys: of another type, beyond both ends, no numbers, unknown names, empty lists.

What is right among them is written down here by hand, apart from the package's own table.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from mask_former.d2.config import get_mask_former_cfg, load_config
from mask_former.d2.configuring.checks import leaves
from mask_former.d2.configuring.keys import KEYS
from mask_former.d2.predictor import Predictor
from mask_former.d2.trainer import Trainer
from mask_former.d2.tta import SemanticSegmentorWithTTA
from tests.bad_inputs.case import Case
from tests.d2.tiny_models import SWIN, image
from tests.small_runs import CONFIG, TINY

NAN, INF = float("nan"), float("inf")
WRONG: dict[type, list[object]] = {
    bool: ["maybe", 2, "[]", None],
    int: [-3, 0, 1.5, NAN, "many", "[1]", 2**70, None],
    float: [-0.5, 10**6, NAN, INF, "fast", "()", None],
    str: [5, "['a']", "no_such_name", None],
    list: ["()", 5, "(0, 0)", "(-1, -1)", ("x", "y"), (NAN, NAN), None],
}
WRONG[tuple] = WRONG[list]
ZERO_OR_LESS = ("INPUT.SIZE_DIVISIBILITY", "MODEL.MASK_FORMER.SIZE_DIVISIBILITY", "SEED")
ZERO = (
    "MODEL.BACKBONE.FREEZE_AT",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS",
    "MODEL.MASK_FORMER.ENC_LAYERS",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS",
    "INPUT.MIN_SIZE_TEST",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.MAX_ITER",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.REFERENCE_WORLD_SIZE",
)
# Weights and rates have no largest value.
LARGE = (
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT",
    "MODEL.MASK_FORMER.MASK_WEIGHT",
    "MODEL.MASK_FORMER.DICE_WEIGHT",
    "MODEL.MASK_FORMER.OVERSAMPLE_RATIO",
    "SOLVER.BASE_LR",
    "SOLVER.BACKBONE_MULTIPLIER",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.WEIGHT_DECAY_NORM",
    "SOLVER.WEIGHT_DECAY_EMBED",
    "SOLVER.POLY_LR_POWER",
    "SOLVER.BIAS_LR_FACTOR",
    "SOLVER.WEIGHT_DECAY_BIAS",
    "MODEL.SWIN.QK_SCALE",
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA",
    "SOLVER.GAMMA",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE",
)
RIGHT = {
    *((key, value) for key in ZERO_OR_LESS for value in (0, -3)),
    *((key, 0) for key in ZERO),
    *((key, 10**6) for key in LARGE),
    ("TEST.EVAL_PERIOD", 0),
    ("TEST.EVAL_PERIOD", -3),
    ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", INF),
    ("SOLVER.BIAS_LR_FACTOR", None),
    ("SOLVER.WEIGHT_DECAY_BIAS", None),
    ("MODEL.SWIN.QK_SCALE", None),
    ("MODEL.WEIGHTS", None),
    ("DATASETS.TEST", "()"),
    ("DATASETS.DESCRIPTIONS", "()"),
    ("INPUT.SCALE_JITTER", "()"),
    ("MODEL.MASK_FORMER.CLASS_WEIGHTS", "()"),
    ("SOLVER.FREEZE", "()"),
    ("MODEL.MASK_FORMER.TEST.TILES", "(0, 0)"),
    ("SOLVER.CHECKPOINTS_KEPT", 0),
    ("TEST.PATIENCE", 0),
    ("SOLVER.STEPS", "()"),
    ("TEST.EXPECTED_RESULTS", "()"),
}
"""Odd, but of use: 0 turns off, infinity is a norm, and so on."""

MORE: list[tuple[str, object]] = [
    ("MODEL.MASK_FORMER.DROPOUT", 2),
    ("MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", 2),
    ("MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", -1),
    ("MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", 2),
    ("MODEL.MASK_FORMER.NHEADS", 5),
    ("MODEL.MASK_FORMER.HIDDEN_DIM", 33),
    ("MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO", 1.5),
    ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 10**9),
    ("MODEL.MASK_FORMER.MATCHER", "Bipartite"),
    ("MODEL.MASK_FORMER.MATCHER", "fixed"),
    ("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "res6"),
    ("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "transformer_encoder"),
    ("MODEL.MASK_FORMER.SIZE_DIVISIBILITY", 10**9),
    ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 150),
    ("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 3),
    ("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 255),
    ("MODEL.SEM_SEG_HEAD.NORM", "gn"),
    ("MODEL.SEM_SEG_HEAD.NORM", "LayerNorm"),
    ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 40),
    ("MODEL.SEM_SEG_HEAD.IN_FEATURES", "('res2', 'p3')"),
    ("MODEL.SEM_SEG_HEAD.NAME", "PerPixelBaselineHead"),
    ("MODEL.META_ARCHITECTURE", "SemanticSegmentor"),
    ("MODEL.META_ARCHITECTURE", "maskformer"),
    ("MODEL.BACKBONE.FREEZE_AT", 9),
    ("MODEL.BACKBONE.NAME", "D2Swin"),
    ("MODEL.RESNETS.NORM", "bn"),
    ("MODEL.RESNETS.NORM", "GN"),
    ("MODEL.RESNETS.DEPTH", 51),
    ("MODEL.RESNETS.OUT_FEATURES", "('res2', 'res6')"),
    ("MODEL.SWIN.DEPTHS", "(2, 2)"),
    ("MODEL.SWIN.DROP_PATH_RATE", 1.0),
    ("MODEL.SWIN.QK_SCALE", -1),
    ("MODEL.DEVICE", "gpu"),
    ("MODEL.DEVICE", "cuda:99"),
    ("MODEL.DEVICE", ""),
    ("MODEL.PIXEL_MEAN", "(1.0, 2.0)"),
    ("MODEL.PIXEL_MEAN", "(1.0, 2.0, 3.0, 4.0)"),
    ("MODEL.PIXEL_STD", "(1.0, 2.0)"),
    ("MODEL.PIXEL_STD", "(1.0, 0.0, 1.0)"),
    ("MODEL.PIXEL_STD", "(1.0, -1.0, 1.0)"),
    ("MODEL.IMAGE_MODEL.NAME", "timm/no_such_model"),
    ("INPUT.FORMAT", "rgb"),
    ("INPUT.FORMAT", "L"),
    ("INPUT.CROP.TYPE", "Absolute"),
    ("INPUT.CROP.TYPE", "relative"),
    ("INPUT.CROP.SIZE", "(32,)"),
    ("INPUT.CROP.SIZE", "(32.5, 32)"),
    ("INPUT.CROP.SIZE", "(0, 32)"),
    ("INPUT.RANDOM_FLIP", "both"),
    ("INPUT.MIN_SIZE_TRAIN", "(0,)"),
    ("INPUT.MIN_SIZE_TRAIN", "(-32,)"),
    ("INPUT.MIN_SIZE_TRAIN", "(32.5,)"),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
    ("INPUT.MIN_SIZE_TEST", -1),
    ("INPUT.DATASET_MAPPER_NAME", "mask_former_semantc"),
    ("DATASETS.TRAIN", "('camvid_sem_seg_trian',)"),
    ("DATASETS.TEST", "('no_such_set',)"),
    ("DATASETS.TEST", "('ade20k_sem_seg_val',)"),
    ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
    ("SOLVER.OPTIMIZER", "adamw"),
    ("SOLVER.OPTIMIZER", "ADAM"),
    ("SOLVER.LR_SCHEDULER_NAME", "Poly"),
    ("SOLVER.LR_SCHEDULER_NAME", "warmuppolylr"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "all"),
    ("SOLVER.AMP.DTYPE", "int8"),
    ("SOLVER.STEPS", "(20, 10)"),
    ("SOLVER.MOMENTUM", 1.5),
    ("SOLVER.EMA_DECAY", 1.0),
    ("SEED", 2**40),
    ("TEST.EXPECTED_RESULTS", "[['sem_seg', 'mIoU']]"),
    ("VERSION", 1),
]

USUAL = {
    **TINY,
    "MODEL.DEVICE": "cpu",
    "SOLVER.MAX_ITER": 1,
    "DATASETS.TEST": "()",
    "INPUT.MIN_SIZE_TEST": 64,
    "TEST.AUG.MIN_SIZES": "(64,)",
}
SWITCHED_ON: dict[str, dict[str, object]] = {  # so that the key has an effect
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": {"MODEL.MASK_FORMER.TEST.INSTANCE_ON": True},
    "MODEL.SWIN": SWIN,
    "MODEL.IMAGE_MODEL": {
        "MODEL.BACKBONE.NAME": "build_torchvision_backbone",
        "MODEL.IMAGE_MODEL.NAME": "resnet18",
    },
    "SOLVER.CLIP_GRADIENTS": {"SOLVER.CLIP_GRADIENTS.ENABLED": True},
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": {"SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "norm"},
    "SOLVER.GAMMA": {"SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR"},
    "SOLVER.STEPS": {"SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR"},
}


def cases(folder: Path) -> Iterator[Case]:
    """Each key with each wrong value of its type, and cases that take more thought."""
    for key, default in leaves(get_mask_former_cfg()):
        if key in KEYS and key != "OUTPUT_DIR":  # of which the commands' cases are
            kind = float if default is None else type(default)
            for value in WRONG[kind]:
                yield _case(folder, key, value, (key, value) in RIGHT)
    for key, value in MORE:
        yield _case(folder, key, value, is_right=False)


def _case(folder: Path, key: str, value: object, is_right: bool) -> Case:
    on: dict[str, object] = {}
    for start, options in SWITCHED_ON.items():
        on |= options if key.startswith(start) else {}
    act = partial(live, folder, {**on, key: value})
    return Case("value of a key", f"{key} {value!r}", act, is_right)


def live(folder: Path, options: dict[str, object]) -> None:
    """Trains for an iteration and predicts, from configuration to the end."""
    output = str(folder / "out")
    given = {**USUAL, "OUTPUT_DIR": output, **options}
    cfg = load_config(str(CONFIG), [part for pair in given.items() for part in pair])
    trainer = Trainer(cfg)
    trainer.checkpointer.save_to_disk = False
    trainer.resume_or_load(resume=False)
    trainer.train()
    with torch.no_grad():
        SemanticSegmentorWithTTA(cfg, trainer.model.eval())(
            [{"image": image(40, 40)["image"].byte()}]
        )
    cfg.MODEL.WEIGHTS = ""
    Predictor(cfg)(torch.zeros(40, 40, 3, dtype=torch.uint8).numpy())
