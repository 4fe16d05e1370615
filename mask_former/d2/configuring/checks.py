"""What is wrong with a configuration, told before anything is built from it."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from detectron2.config import CfgNode

from ..errors import InputError
from .keys import KEYS
from .rules import is_finite, shown

_CHANNELS = {"RGB": 3, "BGR": 3, "L": 1, "YUV-BT.601": 3}
_GROUPS = 32  # of every GN of Detectron2
_NOWHERE: Mapping[str, str] = MappingProxyType({})


def check_config(cfg: CfgNode, places: Mapping[str, str] = _NOWHERE) -> None:
    """Refuses values that no run can use, and keys that contradict each other.

    Args:
        cfg: the whole configuration; keys that it lacks are not missed.
        places: where the value of a key was read, as a file and a line, for the message.

    Raises:
        InputError: with the key, the value, what is allowed, and the place where it is known.
    """
    values = dict(leaves(cfg))
    for key, value in values.items():
        entry = KEYS.get(key)
        if entry is not None and not entry.rule.accepts(value):
            raise InputError(at(places, key) + entry.rule.refusal(key, value))
        if entry is None and not is_finite(value):
            raise InputError(f"{at(places, key)}{key} is {shown(value)}; give finite numbers")
    checks = (_check_classes, _check_pixels, _check_input, _check_schedule, _check_resnet)
    for check in (*checks, _check_widths):
        check(cfg)


def at(places: Mapping[str, str], key: str) -> str:
    """The start of a sentence about a key: where its value was read, if that is known."""
    return f"{places[key]}: " if key in places else ""


def leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a configuration by their dotted keys."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _check_classes(cfg: CfgNode) -> None:
    head = cfg.MODEL.SEM_SEG_HEAD
    is_ours = cfg.MODEL.META_ARCHITECTURE in ("MaskFormer", "SemanticSegmentor")
    if is_ours and head.IGNORE_VALUE < head.NUM_CLASSES:
        raise InputError(
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}, the number of a class: "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}; give that number or more"
        )


def _check_pixels(cfg: CfgNode) -> None:
    mean, std = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    channels = _CHANNELS[cfg.INPUT.FORMAT]
    if not len(mean) == len(std) == channels:
        raise InputError(
            f"MODEL.PIXEL_MEAN has {len(mean)} numbers, MODEL.PIXEL_STD {len(std)}, but an image "
            f"of INPUT.FORMAT {cfg.INPUT.FORMAT} {channels} channels; give as many of both"
        )


def _check_input(cfg: CfgNode) -> None:
    sizes, crop = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and not _is_range(sizes):
        raise InputError(
            f"INPUT.MIN_SIZE_TRAIN is {shown(sizes)}, of which MIN_SIZE_TRAIN_SAMPLING range needs "
            "the least and the largest; give two sizes in this order, or choice"
        )
    if not crop.ENABLED:
        return
    if crop.TYPE.startswith("relative") and max(crop.SIZE) > 1:
        raise InputError(
            f"INPUT.CROP.SIZE is {shown(crop.SIZE)}, but INPUT.CROP.TYPE {crop.TYPE} means shares "
            "of the image; give two numbers up to 1, or absolute as the type"
        )
    if crop.TYPE.startswith("absolute") and any(side != int(side) for side in crop.SIZE):
        raise InputError(
            f"INPUT.CROP.SIZE is {shown(crop.SIZE)}, but INPUT.CROP.TYPE {crop.TYPE} means pixels; "
            "give two whole numbers, or relative as the type"
        )
    if crop.TYPE == "absolute_range" and not _is_range(crop.SIZE):
        raise InputError(
            f"INPUT.CROP.SIZE is {shown(crop.SIZE)}, but INPUT.CROP.TYPE absolute_range means the "
            "least and the largest side; give them in this order"
        )


def _is_range(values: Sequence[float]) -> bool:
    return len(values) == 2 and values[0] <= values[1]


def _check_schedule(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    steps = list(solver.STEPS)
    if steps != sorted(set(steps)):
        raise InputError(f"SOLVER.STEPS is {shown(steps)}; give iterations in rising order")
    if solver.MAX_ITER == 0 and solver.LR_SCHEDULER_NAME != "WarmupPolyLR":
        raise InputError(
            f"SOLVER.MAX_ITER is 0, over which SOLVER.LR_SCHEDULER_NAME {solver.LR_SCHEDULER_NAME} "
            "cannot be spread; give 1 or more, or WarmupPolyLR"
        )


def _check_resnet(cfg: CfgNode) -> None:
    """What Detectron2's ResNets only assert, and the groups of their norms."""
    name, resnet = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS
    widths = ["STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS", "WIDTH_PER_GROUP"]
    needed: dict[str, int] = {}
    if name == "build_tiny_resnet_backbone":
        del widths[-1]
    elif name == "build_resnet_backbone" and resnet.DEPTH < 50:
        needed = {"RES2_OUT_CHANNELS": 64, "RES5_DILATION": 1, "NUM_GROUPS": 1}
    elif name == "build_resnet_backbone" and resnet.RES5_DILATION == 4:
        needed = {"RES5_DILATION": 1}
    elif name == "build_resnet_deeplab_backbone" and resnet.RES4_DILATION == 2:
        needed = {"RES5_DILATION": 4}
    for key, value in needed.items():
        if resnet[key] != value:
            raise InputError(
                f"MODEL.RESNETS.{key} is {resnet[key]}, but MODEL.BACKBONE.NAME {name} with "
                f"MODEL.RESNETS.{{DEPTH {resnet.DEPTH}, RES4_DILATION {resnet.RES4_DILATION}}} "
                f"needs {value}"
            )
    for key in widths if "resnet" in name and resnet.NORM == "GN" else ():
        if resnet[key] % _GROUPS:
            raise InputError(
                f"MODEL.RESNETS.{key} is {resnet[key]}, of which MODEL.RESNETS.NORM GN cannot make "
                f"{_GROUPS} groups; give a multiple of {_GROUPS}, or another norm"
            )


def _check_widths(cfg: CfgNode) -> None:
    """The width of each transformer, which its heads share and its positions take by twos."""
    model = cfg.MODEL
    keys = []
    if model.META_ARCHITECTURE == "MaskFormer" or "Plus" in model.SEM_SEG_HEAD.NAME:
        keys.append(("MODEL.MASK_FORMER.HIDDEN_DIM", model.MASK_FORMER.HIDDEN_DIM))
    if model.SEM_SEG_HEAD.PIXEL_DECODER_NAME == "TransformerEncoderPixelDecoder":
        keys.append(("MODEL.SEM_SEG_HEAD.CONVS_DIM", model.SEM_SEG_HEAD.CONVS_DIM))
    heads = model.MASK_FORMER.NHEADS
    for key, width in keys:
        if width % 2 or width % heads:
            raise InputError(
                f"{key} is {width}, MODEL.MASK_FORMER.NHEADS {heads}; the width of a transformer "
                "must be even and a multiple of the number of its heads"
            )
