"""The configuration: our keys with their defaults, and how a command comes to its own."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

from ..functional.points import PointOptions
from ..modeling.mask_decoder import TransformerMaskDecoder
from ..modeling.swin import SwinTransformer
from ..structures import InferenceOptions, LossWeights
from .configuring.checks import check_config
from .configuring.merging import merge_opts, merge_yaml
from .configuring.published import find_config
from .errors import InputError

_logger = logging.getLogger(__name__)

# Keys and the arguments that they are passed as, whose defaults are the keys'.
SWIN_ARGUMENTS = {
    "PATCH_SIZE": "patch_size",
    "EMBED_DIM": "embed_dim",
    "DEPTHS": "depths",
    "NUM_HEADS": "num_heads",
    "WINDOW_SIZE": "window",
    "MLP_RATIO": "mlp_ratio",
    "QKV_BIAS": "qkv_bias",
    "QK_SCALE": "qk_scale",
    "DROP_RATE": "dropout",
    "ATTN_DROP_RATE": "attention_dropout",
    "DROP_PATH_RATE": "drop_path",
    "PATCH_NORM": "patch_norm",
    "OUT_FEATURES": "out_features",
    "USE_CHECKPOINT": "recompute",  # gradient checkpointing; not the original's
}
LAYER_ARGUMENTS = {  # of the pixel decoder's transformer as well
    "NHEADS": "num_heads",
    "DROPOUT": "dropout",
    "DIM_FEEDFORWARD": "feedforward",
    "PRE_NORM": "pre_norm",
}
DECODER_ARGUMENTS = {
    **LAYER_ARGUMENTS,
    "HIDDEN_DIM": "hidden_dim",
    "ENC_LAYERS": "encoder_layers",
    "DEC_LAYERS": "decoder_layers",
    "DEEP_SUPERVISION": "deep_supervision",
    "ENFORCE_INPUT_PROJ": "enforce_input_projection",
}
POINT_ARGUMENTS = {
    "OVERSAMPLE_RATIO": "oversample_ratio",
    "IMPORTANCE_SAMPLE_RATIO": "importance_ratio",
}
WEIGHT_ARGUMENTS = {"MASK_WEIGHT": "mask", "DICE_WEIGHT": "dice"}
INFERENCE_ARGUMENTS = {
    # The first and the third are ours: any of the three results in one pass.
    "SEMANTIC_ON": "semantic",
    "PANOPTIC_ON": "panoptic",
    "INSTANCE_ON": "instance",
    "OBJECT_MASK_THRESHOLD": "object_mask_threshold",
    "OVERLAP_THRESHOLD": "overlap_threshold",
    "SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": "upsample_masks_first",
    "TILES": "tiles",  # ours
}


def arguments_from(node: CfgNode, arguments: Mapping[str, str]) -> dict[str, Any]:
    """Arguments by name from the keys of a node; one of the tables above says which."""
    return {argument: node[key] for key, argument in arguments.items()}


def load_config(
    file: str | None = None,
    opts: Sequence[Any] = (),
    device: str | None = None,
    base: CfgNode | None = None,
) -> CfgNode:
    """The configuration of a command: the defaults, then a file, then the command line.

    Args:
        file: YAML, or a published configuration's name (:func:`find_config`).
        opts: KEY VALUE pairs, which override the file; as in :func:`merge_opts`.
        device: overrides ``MODEL.DEVICE`` of both.
        base: in place of the defaults; changed.

    Returns:
        Not frozen. A device that ``device`` or ``opts`` name is used. That of the file or of the
        defaults is a wish: where torch cannot have it, the CPU takes its place, and a line of the
        log says so. Mixed precision in float16, which is many times slower than float32 on a CPU,
        is off where the user has not asked for the CPU in ``opts``.

    Raises:
        InputError: a file, a key or a value is bad, or the device that is named cannot be used.
    """
    cfg = get_mask_former_cfg() if base is None else base
    places = {} if file is None else merge_yaml(cfg, find_config(file))
    merge_opts(cfg, opts)
    check_config(cfg, {**places, **dict.fromkeys(opts[::2], "command line")})
    named = device is not None or "MODEL.DEVICE" in opts[::2]
    cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
    problem = _device_problem(cfg.MODEL.DEVICE)
    if named:
        check_device(cfg.MODEL.DEVICE)
    if problem is not None:
        _logger.warning("%s cannot be used here; going on with the CPU", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    chosen = problem is not None or device is not None
    if chosen and cfg.MODEL.DEVICE == "cpu" and cfg.SOLVER.AMP.DTYPE == "float16":
        cfg.SOLVER.AMP.ENABLED = False
    return cfg


def check_device(device: str) -> None:
    """Refuses a device that torch cannot put a tensor on."""
    if (problem := _device_problem(device)) is not None:
        raise InputError(
            f"MODEL.DEVICE is {device!r}, which cannot be used here: {problem}; give cpu, or leave "
            "it out"
        )


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
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_semantic"
    cfg.INPUT.COLOR_AUG_SSD = False
    # At 1.0 or more, a crop may show a single class.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # The side to which the mappers pad, not a divisor; 0 or less: no padding.
    cfg.INPUT.SIZE_DIVISIBILITY = -1

    # Ours: YAML files that describe data sets, registered under the names that they say.
    cfg.DATASETS.DESCRIPTIONS = []

    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0

    head = cfg.MODEL.SEM_SEG_HEAD
    head.PIXEL_DECODER_NAME = "BasePixelDecoder"
    head.TRANSFORMER_ENC_LAYERS = 0
    head.update(_defaults(TransformerMaskDecoder, {"MASK_DIM": "mask_dim"}))
    cfg.MODEL.MASK_FORMER = _mask_former_keys()
    cfg.MODEL.SWIN = CfgNode(_defaults(SwinTransformer, SWIN_ARGUMENTS))
    cfg.MODEL.SWIN.PRETRAIN_IMG_SIZE = 224  # the images that the absolute positions of APE are for
    cfg.MODEL.SWIN.APE = False

    # Ours: backbones of timm and torchvision. The file, of the library's own weights for the model
    # of that name, is read where MODEL.WEIGHTS is empty.
    cfg.MODEL.IMAGE_MODEL = CfgNode({"NAME": "", "WEIGHTS": ""})
    cfg.MODEL.IMAGE_MODEL.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Ours: the same numbers, but for float noise, in less time or memory.
    cfg.MODEL.COMPILE = False  # backbone and head, by torch.compile
    cfg.MODEL.CHANNELS_LAST = False
    # Ours. MODEL.WEIGHTS of other classes give a class of the same name its row of the class layer.
    cfg.MODEL.CLASSES_BY_NAME = False
    cfg.MODEL.RESNETS.USE_CHECKPOINT = False  # gradient checkpointing, as MODEL.SWIN's
    # Ours. True: scales resample the image that the test loader has resized, as published.
    cfg.TEST.AUG.RESIZE_TWICE = True
    _add_training_keys(cfg)


def _add_training_keys(cfg: CfgNode) -> None:
    """Keys that the original lacks; none changes a training as it is."""
    cfg.SOLVER.AMP.DTYPE = "float16"  # or "bfloat16", of SOLVER.AMP.ENABLED
    cfg.SOLVER.DETERMINISTIC = False  # only algorithms that give the same bits each time
    cfg.SOLVER.ACCUMULATE = 1  # parts in which each process's batch goes through the model
    cfg.SOLVER.EMA_DECAY = 0.0  # of the moving average of the weights, for example 0.9999
    cfg.SOLVER.FREEZE = []  # regular expressions of the beginnings of parameters' names
    cfg.SOLVER.CHECKPOINTS_KEPT = 0  # the last so many, and the best; 0: all
    cfg.TEST.BEST_METRIC = ""  # its best checkpoint is model_best.pth, for example "sem_seg/mIoU"
    cfg.TEST.PATIENCE = 0  # evaluations without a better one after which the run ends
    cfg.TEST.BOUNDARY_IOU = False  # also how well the outlines of semantic results fit
    cfg.TEST.LOSS = False  # also the losses on DATASETS.TEST, with the augmentations of training
    cfg.INPUT.SCALE_JITTER = []  # least and greatest size, in INPUT.CROP.SIZE: large-scale jitter
    cfg.WANDB_PROJECT = ""  # of Weights & Biases


def _mask_former_keys() -> CfgNode:
    node = CfgNode()
    # Names in the registries of build/registry.py; the first three keys are not the original's.
    node.MASK_DECODER = "TransformerPredictor"
    node.CRITERION = "SetCriterion"
    node.MATCHER = "bipartite"

    # 0: losses on all pixels, as in the paper; n: losses and costs on n sampled points a mask, of
    # which the second share are the most uncertain among n times the first (PointRend).
    node.TRAIN_NUM_POINTS = 0
    node.update(_defaults(PointOptions, POINT_ARGUMENTS))
    # Padded and ignored pixels take part in no cost and no loss, padded ones in no attention.
    node.VALID_MASK = False
    node.NO_OBJECT_WEIGHT = 0.1
    node.CLASS_WEIGHTS = []  # of each class in the classification loss; empty: the file's, or 1
    node.update(_defaults(LossWeights, WEIGHT_ARGUMENTS))

    node.NUM_OBJECT_QUERIES = 100
    node.TRANSFORMER_IN_FEATURE = "res5"
    node.update(_defaults(TransformerMaskDecoder, DECODER_ARGUMENTS))

    # Negative: the backbone's own; 0: pad only to the largest image of the batch.
    node.SIZE_DIVISIBILITY = 32
    node.TEST = CfgNode(_defaults(InferenceOptions, INFERENCE_ARGUMENTS))
    # Ours. "marginal" sums over all queries; "general" takes those that panoptic inference keeps.
    node.TEST.SEMANTIC_INFERENCE = "marginal"
    # "scores" are K maps; "labels" is one map of classes, in a fraction of the memory.
    node.TEST.SEM_SEG_OUTPUT = "scores"
    return node


def _defaults(function: Callable[..., Any], arguments: Mapping[str, str]) -> dict[str, Any]:
    """Values for keys: the defaults of the arguments that they are passed as."""
    parameters = inspect.signature(function).parameters
    values = {key: parameters[argument].default for key, argument in arguments.items()}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
