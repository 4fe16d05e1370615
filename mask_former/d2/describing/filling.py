"""A configuration for described data: each number with the reason for it beside it."""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from detectron2.config import CfgNode

from ..data.description import Description

_SCALES = [x / 10 for x in range(5, 21)]  # of the published augmentation: half to twice the size
_TEST_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the published test-time augmentation
_LARGEST_SIDE = 640
_PASSES = 130  # how often ADE20K's published schedule shows a picture
_FEWEST_ITERATIONS, _MOST_ITERATIONS = 10_000, 160_000
_QUERIES = (20, 32, 50, 100, 150, 200, 300, 500, 900)
_STRIDE = 32  # of the coarsest features
_MAPPERS = {
    "semantic": "mask_former_semantic",
    "panoptic": "mask_former_panoptic",
    "instance": "mask_former_instance",
}


class Facts(NamedTuple):
    """What the pictures and labels of the training split say."""

    pictures: int
    height: int
    """The median, as :attr:`width`."""
    width: int
    most_segments: int
    """Of a picture."""


class Entry(NamedTuple):
    """A key with its value, and why."""

    key: str
    value: Any
    reason: str = ""


class Choices(NamedTuple):
    """What a user decides about the weights to start from."""

    from_scratch: bool = False
    own_base: bool = False
    """Whether the base is the user's, whose learning rates are left as they are."""
    keeps_queries: bool = False
    """Whether the weights are MaskFormer's, whose queries are learnt."""


def fill(description: Description, facts: Facts, base: CfgNode, choices: Choices) -> list[Entry]:
    """The keys that depend on the data.

    Args:
        description: with the splits train and val, or others to train and evaluate on.
        facts: of the training split.
        base: the configuration that the entries are merged into, with the command line's values.
        choices: about weights.
    """
    return [
        *_data_entries(description),
        *_model_entries(description, facts, base, choices),
        *_size_entries(description, facts, base),
        *_schedule_entries(facts, base),
        *(_scratch_entries(base, choices) if choices.from_scratch else ()),
    ]


def train_and_test(description: Description) -> tuple[str, str]:
    """The registered names of the split to train and the split to evaluate on."""
    labelled = [split.name for split in description.splits if split.is_labelled]
    names = {name.rpartition("_")[2]: name for name in labelled}
    test = names.get("val") or names.get("validation") or names.get("test") or labelled[-1]
    return description.training.name, test


def _data_entries(description: Description) -> Iterator[Entry]:
    train, test = train_and_test(description)
    yield Entry("DATASETS.DESCRIPTIONS", [description.file])
    yield Entry("DATASETS.TRAIN", [train])
    yield Entry("DATASETS.TEST", [test], "choose settings here; report another split once")
    yield Entry("MODEL.SEM_SEG_HEAD.NUM_CLASSES", len(description.classes), "of the description")
    ignored = description.ignore_label
    yield Entry("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", ignored, "the label of pixels without a class")


def _model_entries(
    description: Description, facts: Facts, base: CfgNode, choices: Choices
) -> Iterator[Entry]:
    task, options = description.task, base.MODEL.MASK_FORMER
    classes, most = len(description.classes), facts.most_segments
    if options.MATCHER == "fixed" or base.MODEL.SEM_SEG_HEAD.NAME == "PerPixelBaselinePlusHead":
        yield Entry("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", classes, "a query for each class")
    elif base.MODEL.META_ARCHITECTURE != "MaskFormer":
        return
    elif choices.keeps_queries and most <= options.NUM_OBJECT_QUERIES:
        reason = f"those of the weights; a picture has at most {most} segments"
        number = options.NUM_OBJECT_QUERIES
        yield Entry("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", number, reason)
    else:
        number = next((n for n in _QUERIES if n >= 2 * most), most)
        reason = f"twice the {most} segments that a picture has at most, or more"
        yield Entry("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", number, reason)
    if base.MODEL.META_ARCHITECTURE != "MaskFormer":
        return
    yield Entry("MODEL.MASK_FORMER.VALID_MASK", True, "what has no class takes part in no loss")
    has_labels = any(split.labels for split in description.splits)
    for key, is_on in (
        ("SEMANTIC_ON", task == "semantic" or (task == "panoptic" and has_labels)),
        ("PANOPTIC_ON", task == "panoptic"),
        ("INSTANCE_ON", task == "instance"),
    ):
        yield Entry(f"MODEL.MASK_FORMER.TEST.{key}", is_on, f"{task} data" if is_on else "")


def _size_entries(description: Description, facts: Facts, base: CfgNode) -> Iterator[Entry]:
    mapper = base.INPUT.DATASET_MAPPER_NAME
    fits = mapper == _MAPPERS[description.task]
    if not (fits or (description.task == "panoptic" and "panoptic" in mapper)):
        mapper = _MAPPERS[description.task]
    yield Entry("INPUT.DATASET_MAPPER_NAME", mapper, f"for {description.task} labels")
    if mapper not in _MAPPERS.values():
        return  # an augmentation with sizes of its own
    own = min(facts.height, facts.width)
    side = min(own, _LARGEST_SIDE)
    scale = side / own
    crop = [_below(round(scale * facts.height)), _below(round(scale * facts.width))]
    size = f"{facts.width}x{facts.height} is the median (width x height)"
    yield Entry("INPUT.MIN_SIZE_TEST", side, f"the short side; {size}")
    yield Entry("INPUT.MAX_SIZE_TEST", 4 * side)
    sides = [round(x * side) for x in _SCALES]
    yield Entry("INPUT.MIN_SIZE_TRAIN", sides, "half to twice of that")
    yield Entry("INPUT.MAX_SIZE_TRAIN", 4 * side)
    yield Entry("INPUT.CROP.ENABLED", True)
    yield Entry("INPUT.CROP.TYPE", "absolute")
    yield Entry("INPUT.CROP.SIZE", crop, f"height and width of a picture, in steps of {_STRIDE}")
    if description.task != "semantic" and not description.training.labels:
        reason = "the data to train on have no label maps to look at"
        yield Entry("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 1.0, reason)
    square = crop[0] if crop[0] == crop[1] else -1
    reason = "the crop" if square > 0 else "pad to the largest of a batch, not to a square"
    yield Entry("INPUT.SIZE_DIVISIBILITY", square, reason)
    yield Entry("TEST.AUG.MIN_SIZES", [round(x * side) for x in _TEST_SCALES])
    yield Entry("TEST.AUG.MAX_SIZE", 7 * side)


def _below(length: int) -> int:
    """The largest multiple of the stride that is not larger, nor larger than pictures are read."""
    return max(_STRIDE, min(length, _LARGEST_SIDE) // _STRIDE * _STRIDE)


def _schedule_entries(facts: Facts, base: CfgNode) -> Iterator[Entry]:
    batch = base.SOLVER.IMS_PER_BATCH
    shown = -(-_PASSES * facts.pictures // batch)
    number = min(max(shown, _FEWEST_ITERATIONS), _MOST_ITERATIONS)
    yield Entry("SOLVER.IMS_PER_BATCH", batch, "of the base, or of the command line")
    reason = f"each of {facts.pictures} pictures {number * batch / facts.pictures:.0f} times"
    reason += f"; {_PASSES} times are {shown}, and {_FEWEST_ITERATIONS} to {_MOST_ITERATIONS} good"
    yield Entry("SOLVER.MAX_ITER", number, reason)
    steps = [round(step * number / base.SOLVER.MAX_ITER) for step in base.SOLVER.STEPS]
    if base.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        yield Entry("SOLVER.STEPS", steps, "as far into the schedule as the base's")
    workers = min(base.DATALOADER.NUM_WORKERS, os.cpu_count() or 1)
    yield Entry("DATALOADER.NUM_WORKERS", workers, "processes that read, at most one a CPU")
    yield Entry("SOLVER.CHECKPOINT_PERIOD", number // 10)
    yield Entry("TEST.EVAL_PERIOD", number // 10)


def _scratch_entries(base: CfgNode, choices: Choices) -> Iterator[Entry]:
    yield Entry("MODEL.WEIGHTS", "", "from scratch")
    if choices.own_base:
        return
    if base.MODEL.RESNETS.NORM == "FrozenBN":
        reason = "frozen norms need pretrained weights; with two or fewer images a GPU, SyncBN"
        yield Entry("MODEL.RESNETS.NORM", "BN", reason)
    reason = "from scratch the backbone learns as fast as the rest"
    yield Entry("SOLVER.BASE_LR", 0.0003, reason)
    yield Entry("SOLVER.BACKBONE_MULTIPLIER", 1.0)
    yield Entry("SOLVER.WARMUP_FACTOR", 0.001)
    yield Entry("SOLVER.WARMUP_ITERS", 500)
    yield Entry("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1.0, "stops outliers only")


def config_text(base: str, entries: list[Entry]) -> str:
    """The entries as YAML, nested, with their reasons as comments.

    Args:
        base: the file that they are based on, as ``_BASE_`` names it.
        entries: each key once.
    """
    tree: dict[str, Any] = {}
    for entry in entries:
        node = tree
        *sections, leaf = entry.key.split(".")
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = entry
    return "\n".join([f"_BASE_: {yaml.safe_dump(base).splitlines()[0]}", *_lines(tree, 0)]) + "\n"


def _lines(tree: dict[str, Any], depth: int) -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield f"{'  ' * depth}{key}:"
            yield from _lines(value, depth + 1)
            continue
        text = yaml.safe_dump([value.value], default_flow_style=True, width=10**6).strip()[1:-1]
        comment = f"  # {value.reason}" if value.reason else ""
        yield f"{'  ' * depth}{key}: {text}{comment}"
