"""The published models by the names of their files, which carry neither configuration nor classes.

``zoo.json`` has the configuration, below ``configs``, and the training data of each file that
MODEL_ZOO.md links.
"""

import json
from importlib.resources import files

from detectron2.data import MetadataCatalog


def zoo_config(weights: str) -> str | None:
    """The configuration that belongs to a file of this name; None: it is not of the zoo."""
    return _entry(weights).get("config")


def zoo_class_names(weights: str) -> list[str]:
    """The classes of a file of this name; none if it is not of the zoo."""
    dataset = _entry(weights).get("dataset")
    return list(MetadataCatalog.get(dataset).stuff_classes) if dataset else []


def _entry(weights: str) -> dict[str, str]:
    table = json.loads((files(__package__) / "zoo.json").read_text(encoding="utf-8"))
    return table.get(weights.rpartition("/")[2], {})
