"""The pictures that the page holds, after the network, and what there is to see of them."""

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..d2.data.reading import decode_picture
from ..d2.errors import InputError
from ..d2.predictor import Predictor
from ..d2.visualization.drawing import FastVisualizer, enlarge
from ..d2.visualization.inspection import (
    Inspection,
    inspect,
    inspectable,
    passed_whole,
)
from ..d2.visualization.queries import (
    Explanation,
    Reason,
    Thresholds,
    as_row,
    tell_thresholds,
)
from ..d2.visualization.regions import Found, class_metadata, find_regions, to_bytes
from ..d2.visualization.saving import (
    class_picture,
    color_picture,
    id_picture,
    shown,
    table,
)

HELD = 16  # pictures; the oldest is forgotten for a new one
MEGAPIXELS = 25  # of a picture
INSTANCE_SCORE = 0.5
GLOW = np.array((255, 190, 40), np.float32)  # of a mask; RGB


class View(NamedTuple):
    """What the page asks to see of a picture."""

    task: str
    thresholds: Thresholds
    score: float
    """The lowest score of an instance."""
    classes: frozenset[int] | None
    """Those to show; None: all."""


class Seen(NamedTuple):
    """What there is to see of a picture."""

    found: Found
    explanation: Explanation


@dataclass
class Held:
    """A picture that somebody has given, after the network."""

    name: str
    image: np.ndarray
    """[H, W, 3]; BGR, uint8."""
    inspection: Inspection
    seen: dict[View, Seen] = field(default_factory=dict)
    """The last view: the page asks for several pictures of it."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.inspection.masks.size


class Model:
    """A predictor with its classes, and the pictures that it has seen.

    Args:
        predictor: of a model with queries.
        name: of its weights, for the page.

    Raises:
        InputError: the model has no queries.
    """

    def __init__(self, predictor: Predictor, name: str = "") -> None:
        self.options = inspectable(predictor).inference
        self.predictor, self.name = predictor, name
        self.metadata = class_metadata(predictor.cfg)
        self.names: list[str] = list(self.metadata.stuff_classes)
        self.held: OrderedDict[str, Held] = OrderedDict()
        self.lock = threading.Lock()  # one at a time: the cores are busy with one already

    @property
    def tasks(self) -> list[str]:
        """Those that the model can do, the best first; segments and instances need its things."""
        by_segments = self.options.panoptic or self.options.instance
        able = {"panoptic": self.options.panoptic, "instance": by_segments}
        return [*(task for task, is_able in able.items() if is_able), "semantic"]

    def take(self, name: str, file: BytesIO) -> str:
        """Runs the network on a picture file; gives the key under which the picture is held."""
        try:
            image = decode_picture(file, name, "BGR")
        except InputError as error:
            if error.__cause__ is None:  # readable, and refused
                raise
            raise InputError(
                f"{name} cannot be read as a picture: it is another kind of file, or broken; give "
                "a JPEG, a PNG or another format that Pillow reads"
            ) from error
        height, width = image.shape[:2]
        if height * width > MEGAPIXELS * 10**6:
            raise InputError(
                f"{name} has {width} x {height} pixels; the page takes {MEGAPIXELS} megapixels at "
                "most: make it smaller, or use `mask_former demo`"
            )
        held = Held(name, image, inspect(self.predictor, image))
        key = secrets.token_urlsafe(12)
        self.held[key] = held
        while len(self.held) > HELD:
            self.held.popitem(last=False)
        return key

    def get(self, key: str) -> Held:
        """The picture of a key.

        Raises:
            InputError: it is forgotten.
        """
        if key not in self.held:
            raise InputError(
                f"the picture is no longer held, only the last {HELD} are; give it again"
            )
        self.held.move_to_end(key)
        return self.held[key]

    def see(self, held: Held, view: View) -> Seen:
        """What there is to see of a picture."""
        if view not in held.seen:
            inspection = held.inspection
            explanation = inspection.explain(view.thresholds)
            if view.task == "panoptic":
                predictions = {"panoptic_seg": (explanation.ids, explanation.segments)}
            elif view.task == "instance":
                predictions = inspection.instances(view.score)
            else:
                predictions = inspection.semantic(view.thresholds)
            found = {
                kind: [r for r in regions if view.classes is None or r.category_id in view.classes]
                for kind, regions in find_regions(predictions, self.metadata).items()
            }
            held.seen = {view: Seen(found, explanation)}
        return held.seen[view]

    def describe(self) -> dict[str, Any]:
        """What the page needs to know of the model."""
        colors = [[int(value) for value in color] for color in self.metadata.stuff_colors]
        return {
            "weights": self.name,
            "tasks": self.tasks,
            "classes": [
                {"id": i, "name": name, "color": color}
                for i, (name, color) in enumerate(zip(self.names, colors, strict=True))
            ],
            "object_mask": self.options.object_mask_threshold,
            "overlap": self.options.overlap_threshold,
            "score": INSTANCE_SCORE,
        }

    def report(self, held: Held, view: View) -> dict[str, Any]:
        """Regions, queries and what the thresholds do, as plain data."""
        seen = self.see(held, view)
        kind, regions = shown(seen.found)
        entries = table(seen.found, held.size)[kind]
        for entry, region in zip(entries, regions, strict=True):
            entry["color"] = to_bytes(region.color)
        explanation = seen.explanation
        return {
            "name": held.name,
            "kind": kind,
            "regions": entries,
            "queries": [as_row(query, explanation, self.names) for query in explanation.queries],
            "used": len(explanation.of(Reason.KEPT)),
            "thresholds": tell_thresholds(explanation, self.names),
            "note": self.note(view),
        }

    def note(self, view: View) -> str:
        """What the thresholds and tiles have to do with the result of the task."""
        told = [passed_whole(self.options)]
        if view.task == "instance":
            told.append(
                "Instances are pairs of a query and a class, by score; the two thresholds do not "
                "matter to them. What follows is what they would do in panoptic inference."
            )
        elif view.task == "semantic" and not self.options.general_semantic:
            told.append(
                "Semantic inference sums class times mask probability over all queries and drops "
                "none. What follows is what the thresholds would do in general inference."
            )
        return " ".join(filter(None, told))

    def picture(self, held: Held, view: View, kind: str) -> Image.Image:
        """The picture, the overlay, the colours, the label map or, in RGB, regions from 1."""
        found, size, number = self.see(held, view).found, held.size, len(self.names)
        if kind == "picture":
            return Image.fromarray(held.image[:, :, ::-1])
        if kind == "overlay":
            image, enlarged = enlarge(held.image, found)
            return Image.fromarray(FastVisualizer(image[:, :, ::-1]).draw(enlarged).get_image())
        if kind == "color":
            return color_picture(found, size, number)
        form, regions = shown(found)
        if kind == "label":
            return (class_picture if form == "classes" else id_picture)(found, size, number)
        numbered = [region._replace(id=i) for i, region in enumerate(regions, start=1)]
        return id_picture({"segments_info": numbered}, size, number)


def glow(image: np.ndarray, mask: np.ndarray, side: int) -> Image.Image:
    """A mask of probabilities in 0..255 [H, W], bright upon the darkened grey picture.

    Args:
        image: [H, W, 3]; BGR, uint8.
        mask: [H, W]; uint8.
        side: pixels that neither side may exceed.
    """
    factor = min(1.0, side / max(mask.shape))
    if factor < 1:
        size = tuple(max(1, round(factor * length)) for length in mask.shape[::-1])
        image, mask = (cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (image, mask))
    part = mask[:, :, None].astype(np.float32) / 255
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[:, :, None].astype(np.float32)
    blend = 0.45 * gray * (1 - part) + (0.35 * gray + 0.65 * GLOW) * part
    return Image.fromarray(blend.round().astype(np.uint8))
