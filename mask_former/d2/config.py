"""The configuration: our keys with their defaults, and how a command comes to its own."""

import logging
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

from .config_merging import merge_opts, merge_yaml
from .errors import InputError

_logger = logging.getLogger(__name__)


def load_config(
    file: str | None = None, opts: Sequence[str] = (), device: str | None = None
) -> CfgNode:
    """The configuration of a command: the defaults, then a file, then the command line.

    Args:
        file: YAML.
        opts: KEY VALUE pairs, which override the file.
        device: overrides ``MODEL.DEVICE`` of both.

    Returns:
        Not frozen. A device that ``device`` or ``opts`` name is used. That of the file or of the
        defaults is a wish: where torch cannot have it, the CPU takes its place, and a line of the
        log says so. Mixed precision in float16, which is many times slower than float32 on a CPU,
        is off where the user has not asked for the CPU in ``opts``.

    Raises:
        InputError: a file, a key or a value is bad, or the device that is named cannot be used.
    """
    cfg = get_mask_former_cfg()
    if file is not None:
        merge_yaml(cfg, file)
    merge_opts(cfg, opts)
    named = device is not None or "MODEL.DEVICE" in opts[::2]
    cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
    problem = _device_problem(cfg.MODEL.DEVICE)
    if problem is not None and named:
        raise InputError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, which cannot be used here: {problem}; give "
            "cpu, or leave it out"
        )
    if problem is not None:
        _logger.warning("%s cannot be used here; going on with the CPU", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    chosen = problem is not None or device is not None
    if chosen and cfg.MODEL.DEVICE == "cpu" and cfg.SOLVER.AMP.DTYPE == "float16":
        cfg.SOLVER.AMP.ENABLED = False
    return cfg


def _device_problem(device: str) -> str | None:
    """Why torch cannot put a tensor there, in its own words; None: it can."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # each is some device's refusal
        return str(error).partition("\n")[0].rstrip(".")
    return None


def get_mask_former_cfg() -> CfgNode:
    """Detectron2's defaults with DeepLab's keys and ours."""
    cfg = get_cfg()
    add_deeplab_config(cfg)
    add_mask_former_config(cfg)
    return cfg


def add_mask_former_config(cfg: CfgNode) -> None:
    """Add our keys with their defaults.

    The YAML files need DeepLab's keys as well (``add_deeplab_config``, before or after this).

    Args:
        cfg: changed in place.
    """
    _add_input_keys(cfg.INPUT)
    _add_solver_keys(cfg.SOLVER)
    _add_head_keys(cfg.MODEL.SEM_SEG_HEAD)
    cfg.MODEL.MASK_FORMER = _mask_former_keys()
    cfg.MODEL.SWIN = _swin_keys()
    _add_speed_keys(cfg)
    # Ours. True: scales resample the image that the test loader has resized, as published.
    cfg.TEST.AUG.RESIZE_TWICE = True


def _add_input_keys(node: CfgNode) -> None:
    node.DATASET_MAPPER_NAME = "mask_former_semantic"
    node.COLOR_AUG_SSD = False
    # At 1.0 or more, a crop may show a single class.
    node.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # The side to which the mappers pad, not a divisor; 0 or less: no padding.
    node.SIZE_DIVISIBILITY = -1


def _add_solver_keys(node: CfgNode) -> None:
    node.OPTIMIZER = "ADAMW"
    node.BACKBONE_MULTIPLIER = 0.1
    node.WEIGHT_DECAY_EMBED = 0.0


def _add_speed_keys(cfg: CfgNode) -> None:
    """Ours: the same numbers, but for float noise, in less time or memory."""
    cfg.MODEL.COMPILE = False  # backbone and head, by torch.compile
    cfg.MODEL.CHANNELS_LAST = False
    cfg.MODEL.RESNETS.USE_CHECKPOINT = False  # gradient checkpointing, as MODEL.SWIN's
    cfg.SOLVER.AMP.DTYPE = "float16"  # or "bfloat16", of SOLVER.AMP.ENABLED


def _add_head_keys(node: CfgNode) -> None:
    node.PIXEL_DECODER_NAME = "BasePixelDecoder"
    node.TRANSFORMER_ENC_LAYERS = 0
    node.MASK_DIM = 256


def _mask_former_keys() -> CfgNode:
    node = CfgNode()
    # Names in the registries of build.py; the first three keys are not the original's.
    node.MASK_DECODER = "TransformerPredictor"
    node.CRITERION = "SetCriterion"
    node.MATCHER = "bipartite"

    node.DEEP_SUPERVISION = True
    # 0: losses on all pixels, as in the paper; n: losses and costs on n sampled points a mask, of
    # which the second share are the most uncertain among n times the first (PointRend).
    node.TRAIN_NUM_POINTS = 0
    node.OVERSAMPLE_RATIO = 3.0
    node.IMPORTANCE_SAMPLE_RATIO = 0.75
    # Padded and ignored pixels take part in no cost and no loss, padded ones in no attention.
    node.VALID_MASK = False
    node.NO_OBJECT_WEIGHT = 0.1
    node.DICE_WEIGHT = 1.0
    node.MASK_WEIGHT = 20.0

    node.HIDDEN_DIM = 256
    node.NUM_OBJECT_QUERIES = 100
    node.NHEADS = 8
    node.DROPOUT = 0.1
    node.DIM_FEEDFORWARD = 2048
    node.ENC_LAYERS = 0
    node.DEC_LAYERS = 6
    node.PRE_NORM = False
    node.TRANSFORMER_IN_FEATURE = "res5"
    node.ENFORCE_INPUT_PROJ = False

    # Negative: the backbone's own; 0: pad only to the largest image of the batch.
    node.SIZE_DIVISIBILITY = 32
    node.TEST = CfgNode()
    node.TEST.PANOPTIC_ON = False
    node.TEST.OBJECT_MASK_THRESHOLD = 0.0
    node.TEST.OVERLAP_THRESHOLD = 0.0
    node.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False
    # Ours, beside PANOPTIC_ON: any of the three results in one pass.
    node.TEST.SEMANTIC_ON = True
    node.TEST.INSTANCE_ON = False
    # "marginal" sums over all queries; "general" takes those that panoptic inference keeps.
    node.TEST.SEMANTIC_INFERENCE = "marginal"
    # "scores" are K maps; "labels" is one map of classes, in a fraction of the memory.
    node.TEST.SEM_SEG_OUTPUT = "scores"
    return node


def _swin_keys() -> CfgNode:
    node = CfgNode()
    node.PRETRAIN_IMG_SIZE = 224
    node.PATCH_SIZE = 4
    node.EMBED_DIM = 96
    node.DEPTHS = [2, 2, 6, 2]
    node.NUM_HEADS = [3, 6, 12, 24]
    node.WINDOW_SIZE = 7
    node.MLP_RATIO = 4.0
    node.QKV_BIAS = True
    node.QK_SCALE = None
    node.DROP_RATE = 0.0
    node.ATTN_DROP_RATE = 0.0
    node.DROP_PATH_RATE = 0.3
    node.APE = False
    node.PATCH_NORM = True
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    node.USE_CHECKPOINT = False  # gradient checkpointing; not the original's
    return node
