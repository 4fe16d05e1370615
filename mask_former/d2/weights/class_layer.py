"""The class layer of a checkpoint of other classes: rows go over to classes of the same name."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from tabulate import tabulate

from ...modeling.per_pixel import PerPixelBaselinePlusHead
from ..errors import InputError

Weights = dict[str, Any]

NO_OBJECT_WEIGHTS = "criterion.empty_weight"
_PREDICTOR = "sem_seg_head.predictor"
_logger = logging.getLogger(__name__)


def class_entries(weights: Weights, model: Any) -> dict[str, int]:
    """Keys of a checkpoint that have a row for each class, and how many rows they have beside."""
    own = model.state_dict()
    entries = {  # "no object" comes last
        f"{_PREDICTOR}.class_embed.weight": 1,
        f"{_PREDICTOR}.class_embed.bias": 1,
        NO_OBJECT_WEIGHTS: 1,
        f"{_PREDICTOR}.weight": 0,
        f"{_PREDICTOR}.bias": 0,
    }
    names = {key: key.removeprefix("module.") for key in weights}
    by_query = isinstance(getattr(model, "sem_seg_head", None), PerPixelBaselinePlusHead)
    if by_query and f"{_PREDICTOR}.class_embed.weight" not in names.values():
        entries[f"{_PREDICTOR}.query_embed.weight"] = 0  # of a file of the same kind
    return {k: entries[name] for k, name in names.items() if name in entries and name in own}


def check_class_entries(weights: Weights, model: Any, file: str) -> None:
    """Refuses entries of the class layer that have no row at all."""
    for key in class_entries(weights, model):
        shape = list(weights[key].shape)
        if not shape or not shape[0]:
            raise InputError(
                f"{key} in {file} is of the shape {shape}, but has a row for each class; give "
                "another file"
            )


def other_class_counts(weights: Weights, model: Any) -> dict[str, tuple[int, int]]:
    """Keys of a checkpoint with another number of classes; that number, and the model's."""
    own = model.state_dict()
    stale = {}
    for key, beside in class_entries(weights, model).items():
        found, expected = len(weights[key]), len(own[key.removeprefix("module.")])
        if found != expected:
            stale[key] = (found - beside, expected - beside)
    return stale


def go_over_by_name(
    weights: Weights, model: Any, theirs: Sequence[str], ours: Sequence[str], file: str
) -> None:
    """Gives each class of the model the rows that the class of its name has in a checkpoint.

    Other classes keep the model's own, new rows; "no object" always goes over. A table in the log
    tells which did. Case, hyphens and underscores make no other name.

    Args:
        weights: the checkpoint's, by name; changed in place to the model's classes.
        model: its classes are ``ours``.
        theirs: names of the checkpoint's classes; one that two have is nobody's.
        ours: names of the model's.
        file: the file that the checkpoint is from.

    Raises:
        InputError: either's classes have no names, or not as many as the layer has rows.
    """
    own = model.state_dict()
    entries = class_entries(weights, model)
    if not entries:
        _logger.warning("%s has no class layer: MODEL.CLASSES_BY_NAME has no effect", file)
        return
    if not theirs:
        raise InputError(
            f"MODEL.CLASSES_BY_NAME is True, but {file} names no classes; give a file that this "
            "version has saved, or one of MODEL_ZOO.md under its own name, or set it False"
        )
    rows = _rows_by_name(theirs, ours)
    for key, beside in entries.items():
        name = key.removeprefix("module.")
        value, kept = torch.as_tensor(weights[key]), own[name].detach().cpu().clone()
        if (number := len(value) - beside) != len(theirs):
            raise InputError(
                f"{file} names {len(theirs)} classes, but its {key} has rows for {number}; set "
                "MODEL.CLASSES_BY_NAME False, or give another file"
            )
        if name == NO_OBJECT_WEIGHTS:  # of no class in particular
            weights[key] = value if value.shape == kept.shape else kept
        elif value.shape[1:] == kept.shape[1:]:  # else the checkpointer's table tells
            kept[[*rows]] = value[[*rows.values()]].to(kept.dtype)
            kept[len(ours) :] = value[len(theirs) :].to(kept.dtype)
            weights[key] = kept
    told = {"go over": [ours[i] for i in rows]}
    told["start anew"] = [name for i, name in enumerate(ours) if i not in rows]
    table = [(kind, str(len(found)), ", ".join(found)) for kind, found in told.items()]
    shown = tabulate(table, tablefmt="plain", disable_numparse=True)
    _logger.info('Classes of %s, by name; "no object" goes over\n%s', file, shown)


def _rows_by_name(theirs: Sequence[str], ours: Sequence[str]) -> dict[int, int]:
    """The row in the checkpoint for each of the model's rows that has one."""
    counts = Counter(map(_plain, theirs))
    places = {_plain(name): i for i, name in enumerate(theirs) if counts[_plain(name)] == 1}
    found = {i: places.get(_plain(name)) for i, name in enumerate(ours)}
    return {i: row for i, row in found.items() if row is not None}


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
