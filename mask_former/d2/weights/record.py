"""What a file of weights says of its model: its configuration, its classes, how to feed it.

Every checkpoint that we save carries it as plain data, so that the file needs nothing beside it: no
YAML, no registered data set. Nothing that it names is opened.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata

from ... import __version__
from ..config import get_mask_former_cfg, load_config
from ..configuring.merging import merge_text
from ..data.datasets import register_descriptions
from ..errors import InputError
from .reading import fetch_weights, read_entry_of_record
from .zoo import zoo_config

Class = dict[str, Any]
"""``id`` (in the data set's files), ``name`` and, where known, ``color`` (RGB) and ``isthing``."""


class ModelRecord(NamedTuple):
    """What stands in a checkpoint beside the weights; also one of its checkpointables."""

    config: str
    """All keys, as YAML."""
    classes: list[Class]
    """The classes in the order of their contiguous ids; none where the data set names none."""
    ignore_value: int
    """The label of pixels without a class."""
    input_format: str
    """The order of the channels that the model sees."""
    version: str
    """The version of this package that wrote the file."""

    @classmethod
    def of(cls, cfg: CfgNode) -> "ModelRecord":
        """The record of a model that a configuration describes, with the classes of its data."""
        ignore_value, input_format = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, cfg.INPUT.FORMAT
        return cls(cfg.dump(), known_classes(cfg), ignore_value, input_format, __version__)

    @classmethod
    def parse(cls, content: Any, file: str) -> "ModelRecord":
        """The record that a file holds.

        Raises:
            InputError: it is none.
        """
        entries = content if isinstance(content, dict) else {}
        kinds = {"config": str, "classes": list, "ignore_value": int}
        kinds |= {"input_format": str, "version": str}
        for key, kind in kinds.items():
            if not isinstance(entries.get(key), kind):
                raise InputError(
                    f"{file} describes its model in another form than ours: {key} is "
                    f"{entries.get(key)!r}, not a {kind.__name__}; name a configuration"
                )
        record = cls(**{key: entries[key] for key in kinds})
        for entry in record.classes:
            _check_class(entry, file)
        return record

    @property
    def names(self) -> list[str]:
        """The names of the classes."""
        return [entry["name"] for entry in self.classes]

    def names_to_go_by(self, cfg: CfgNode) -> list[str]:
        """The names if ``MODEL.CLASSES_BY_NAME`` asks for them, else none.

        Raises:
            InputError: it asks for them and there are none.
        """
        if not cfg.MODEL.CLASSES_BY_NAME:
            return []
        if not self.names:
            raise InputError(
                "MODEL.CLASSES_BY_NAME is True, but neither DATASETS.TRAIN nor DATASETS.TEST names "
                f"{cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES} classes; set stuff_classes in the metadata "
                "where the data set is registered, or set it False"
            )
        return self.names

    def state_dict(self) -> dict[str, Any]:
        """Plain data, which any program can read."""
        return self._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compares with the record of the run that is resumed.

        Raises:
            InputError: a class is another one.
        """
        theirs = ModelRecord.parse(state, "the checkpoint").names
        for i, (before, now) in enumerate(zip(theirs, self.names, strict=False)):
            if before != now:
                raise InputError(
                    f"class {i} is {before!r} in the run, but {now!r} in the data set; --resume "
                    "goes on with the classes of the run: to start from its weights, give them as "
                    "MODEL.WEIGHTS (with MODEL.CLASSES_BY_NAME True) and another OUTPUT_DIR"
                )

    def config_alone(self, file: str) -> CfgNode:
        """The configuration, without what belongs to the machine or the data of the training.

        Args:
            file: the file that holds the record; for errors.

        Returns:
            Not frozen; of ``DATASETS`` only the names of ``TEST`` are left.
        """
        cfg, default = get_mask_former_cfg(), get_mask_former_cfg()
        merge_text(cfg, self.config, f"the configuration in {file} (of mask_former {self.version})")
        number = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        if self.classes and len(self.classes) != number:
            raise InputError(
                f"{file} names {len(self.classes)} classes, but its MODEL.SEM_SEG_HEAD.NUM_CLASSES "
                f"is {number}; the file was changed: get it anew, or name a configuration"
            )
        tests = cfg.DATASETS.TEST
        cfg.DATASETS = default.DATASETS
        cfg.DATASETS.TEST = tests
        cfg.OUTPUT_DIR, cfg.MODEL.DEVICE = default.OUTPUT_DIR, default.MODEL.DEVICE
        cfg.MODEL.WEIGHTS = cfg.MODEL.IMAGE_MODEL.WEIGHTS = ""
        return cfg

    def register(self) -> str:
        """Enters the classes in Detectron2's catalog, under a name that only they have."""
        told = json.dumps([self.classes, self.ignore_value], sort_keys=True)
        name = f"classes_{hashlib.sha256(told.encode()).hexdigest()[:12]}"
        MetadataCatalog.get(name).set(**self.metadata())
        return name

    def metadata(self) -> dict[str, Any]:
        """What Detectron2's visualizers know about classes; things and stuff share one list."""
        metadata: dict[str, Any] = {"ignore_label": self.ignore_value}
        if not self.classes:
            return metadata
        metadata |= {"stuff_classes": self.names, "thing_classes": self.names}
        ids = {entry["id"]: i for i, entry in enumerate(self.classes)}
        metadata["stuff_dataset_id_to_contiguous_id"] = ids
        if all("color" in entry for entry in self.classes):
            colors = [entry["color"] for entry in self.classes]
            metadata |= {"stuff_colors": colors, "thing_colors": colors}
        if all("isthing" in entry for entry in self.classes):
            things = {id_: i for id_, i in ids.items() if self.classes[i]["isthing"]}
            metadata["thing_dataset_id_to_contiguous_id"] = things
        return metadata


def _check_class(entry: Any, file: str) -> None:
    entry = entry if isinstance(entry, dict) else {"": entry}
    color = entry.get("color", [0, 0, 0])
    good = (
        isinstance(entry.get("id"), int)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("isthing", False), bool)
        and isinstance(color, list)
        and len(color) == 3
        and all(isinstance(value, int) and 0 <= value <= 255 for value in color)
    )
    if not good:
        raise InputError(
            f"{file} has the class {entry!r}; a class has id, name and, where known, color (three "
            "of 0 to 255) and isthing: the file was changed; get it anew, or name a configuration"
        )


def known_classes(cfg: CfgNode) -> list[Class]:
    """The classes of the first training set, else of the first test set; none if neither tells."""
    register_descriptions(cfg)
    for name in (*cfg.DATASETS.TRAIN[:1], *cfg.DATASETS.TEST[:1]):
        if name in MetadataCatalog:
            classes = classes_of(MetadataCatalog.get(name), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
            if classes:
                return classes
    return []


def classes_of(metadata: Metadata, number: int) -> list[Class]:
    """The classes of a data set in one list; none where its metadata have no list of ``number``."""
    known = vars(metadata)
    kinds = [k for k in ("stuff", "thing") if len(known.get(f"{k}_classes") or ()) == number]
    if not kinds:
        return []
    mappings = [known.get(f"{kind}_dataset_id_to_contiguous_id") for kind in ("stuff", "thing")]
    ids: dict[int, int] = {}
    for mapping in mappings:
        for dataset_id, contiguous in (mapping or {}).items():
            ids.setdefault(contiguous, dataset_id)  # several may be one class: the first stands
    names = known[f"{kinds[0]}_classes"]
    classes = [{"id": int(ids.get(i, i)), "name": str(name)} for i, name in enumerate(names)]
    if mappings[1] is not None:
        things = set(mappings[1].values())
        classes = [{**entry, "isthing": i in things} for i, entry in enumerate(classes)]
    colors = [c for k in kinds if len(c := known.get(f"{k}_colors") or ()) == number]
    if colors:
        rows = zip(classes, colors[0], strict=True)
        classes = [{**entry, "color": [int(v) for v in color]} for entry, color in rows]
    return classes


def read_record(weights: str) -> ModelRecord | None:
    """What a file says of its model, without reading the weights; None: it says nothing.

    Args:
        weights: a file or an address, as in ``MODEL.WEIGHTS``.

    Raises:
        InputError: the file is missing, broken or not safe to read, or its record is.
    """
    content = read_entry_of_record(fetch_weights(weights))
    return None if content is None else ModelRecord.parse(content, weights)


def load_trained_config(
    file: str | None, opts: Sequence[Any], device: str | None = None, *, evaluate: bool = False
) -> CfgNode:
    """The configuration of a trained model: of a file, else of the weights that ``opts`` name.

    Where the data sets that it names are not registered here, the classes are the weights'.

    Args:
        file: YAML; None: that in the weights.
        opts: as for :func:`load_config`.
        device: as for :func:`load_config`.
        evaluate: keep the names in ``DATASETS.TEST`` of the weights; else their classes stand in
            place of data.

    Raises:
        InputError: as :func:`load_config`; or no file is named and the weights have no record.
    """
    weights = str(dict(zip(opts[::2], opts[1::2], strict=False)).get("MODEL.WEIGHTS", ""))
    if file is not None or not weights:
        cfg = load_config(file, opts, device)
        if not evaluate:
            _fill_in_classes(cfg)
        return cfg
    record = read_record(weights)
    if record is None:
        raise InputError(_no_record(weights))
    base = record.config_alone(weights)
    base.DATASETS.TRAIN = (record.register(),)
    if not evaluate:
        base.DATASETS.TEST = base.DATASETS.TRAIN
    cfg = load_config(None, opts, device, base)
    own, asked = len(record.classes), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if own not in (0, asked):
        raise InputError(
            f"{weights} has {own} classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is {asked}; leave it "
            "out, or give other weights"
        )
    return cfg


def _fill_in_classes(cfg: CfgNode) -> None:
    """Puts the classes of the weights in place of data sets that nobody has registered."""
    weights = cfg.MODEL.WEIGHTS
    if not weights or weights.endswith(".pkl") or known_classes(cfg):  # none of ours is a pickle
        return
    record = read_record(weights)
    if record is not None and len(record.classes) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (record.register(),)


def _no_record(weights: str) -> str:
    known = zoo_config(weights)
    named = f"configs/{known}.yaml, which belongs to it" if known else "that of its training"
    return (
        f"{weights} does not carry its configuration, as files that this version saves do; name "
        f"{named}: --config-file FILE, or load_predictor(FILE, WEIGHTS)"
    )
