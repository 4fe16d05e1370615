"""Draws ``shapes``, a small panoptic data set: overlapping things in front of textured stuff.

Every number comes from the seed, so a seed gives the same bytes again. Three splits: ``train``;
``dev``, on which settings are chosen; ``val``, which chooses nothing and is only reported.

Below ``--output``::

    images/{split}/000001.jpg       RGB
    annotations/{split}/000001.png  index map of class ids, stuff and things (255 would be void)
    panoptic_{split}/000001.png     RGB-coded segment ids
    panoptic_{split}.json           COCO panoptic format; lists the images of the split
    shapes.json                     seed, counts and version; written last

With ``--num-classes`` above 7 the things are of more classes, each a form in a colour of its own,
and ``dataset.yaml`` describes them for DATASETS.DESCRIPTIONS: ``shapes60_train`` and so on.
"""

import argparse
import colorsys
import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from panopticapi.utils import id2rgb
from PIL import Image

VERSION = 1  # raise it when the same seed gives other pictures: data drawn before are out of date
SPLITS = ("train", "val", "dev")
SIZE = 128  # pixels, width and height
MIN_VISIBLE_AREA = 60  # pixels of a thing that stay visible
MIN_VISIBLE_SHARE = 0.4  # of its own area within the picture
NUM_THINGS = (3, 7)
RADIUS = (11.0, 21.0)  # pixels; of the disc with the same area
SHARE_BESIDE_OWN_CLASS = 0.3  # things placed so that they touch or overlap one of their class

Rng = np.random.Generator


def regular_polygon(corners: int, inner: float = 1.0) -> np.ndarray:
    """[corners, 2] around the origin with the area of the unit disc; ``inner`` < 1 makes a star."""
    angles = 2 * np.pi * np.arange(corners) / corners
    radii = np.where(np.arange(corners) % 2, inner, 1.0)
    points = np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)
    return points * math.sqrt(math.pi / cv2.contourArea(points.astype(np.float32)))


POLYGONS = {
    "disc": regular_polygon(40),
    "square": regular_polygon(4),
    "triangle": regular_polygon(3),
    "star": regular_polygon(10, inner=0.5),
    "trefoil": regular_polygon(6, inner=0.35),
    "cross": regular_polygon(8, inner=0.4),
    "sun": regular_polygon(16, inner=0.65),
    "rhombus": regular_polygon(4) @ np.diag([1.4, 1 / 1.4]),
}
HUES = ("red", "blue", "yellow", "green", "violet", "cyan", "orange", "pink")
HUE_ANGLES = (0, 225, 55, 110, 275, 180, 30, 320)  # degrees, of the colours above


class Category(NamedTuple):
    """An entry of the class table, its keys those of COCO's ``categories``."""

    id: int
    name: str
    isthing: int
    color: list[int]
    """RGB; around it the pictures' colours of the class are drawn."""


class Thing(NamedTuple):
    """One object: where it stands and which class it has."""

    category: Category
    center: np.ndarray
    """[2]; x and y in pixels."""
    radius: float
    angle: float

    def corners(self) -> np.ndarray:
        """[corners, 2] in whole pixels; x and y."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        unit = POLYGONS[self.category.name.split()[-1]] @ np.array([[cos, sin], [-sin, cos]])
        return np.rint(self.center + self.radius * unit).astype(np.int32)

    def mask(self) -> np.ndarray:
        """[SIZE, SIZE] bool; the whole shape, also where another thing will cover it."""
        canvas = np.zeros((SIZE, SIZE), np.uint8)
        return cv2.fillPoly(canvas, [self.corners()], (1,)).astype(bool)


class Scene(NamedTuple):
    """A picture with its labels."""

    image: np.ndarray
    """[SIZE, SIZE, 3] uint8; RGB."""
    semantic: np.ndarray
    """[SIZE, SIZE] uint8; class ids."""
    panoptic: np.ndarray
    """[SIZE, SIZE] int64; segment ids."""
    segments: list[dict[str, int | list[int]]]
    """COCO's ``segments_info``."""


def load_categories(count: int) -> list[Category]:
    """The class table that the package registers, too; for more classes, with other things."""
    table = Path(__file__).parents[1] / "d2" / "data" / "categories" / "shapes.json"
    registered = [Category(**entry) for entry in json.loads(table.read_text(encoding="utf-8"))]
    if count == len(registered):
        return registered
    stuff = [category for category in registered if not category.isthing]
    # Colours first, which are learnt sooner than forms.
    looks = itertools.product(POLYGONS, zip(HUES, HUE_ANGLES, strict=True))
    things = []
    for id_, (form, (hue, angle)) in zip(range(len(stuff), count), looks, strict=False):
        color = [round(255 * part) for part in colorsys.hsv_to_rgb(angle / 360, 0.65, 0.85)]
        things.append(Category(id_, f"{hue} {form}", 1, color))
    return stuff + things


def image_rng(seed: int, split: str, index: int) -> Rng:
    """A generator of this image alone, so that no image depends on how many are drawn."""
    spawn_key = (SPLITS.index(split), index)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=spawn_key))


def smooth_noise(rng: Rng, rows: int, columns: int) -> np.ndarray:
    """[SIZE, SIZE] about -1 to 1; random values on a grid of that many cells, interpolated."""
    grid = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return cv2.resize(grid, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def sky_shade(rng: Rng) -> np.ndarray:
    """[SIZE, SIZE] brighter towards the horizon, with clouds."""
    clouds = smooth_noise(rng, 8, 4) + 0.5 * smooth_noise(rng, 20, 10)
    return np.linspace(-0.22, 0.12, SIZE)[:, None] + 0.3 * np.clip(clouds, 0, 1)


def grass_shade(rng: Rng) -> np.ndarray:
    """[SIZE, SIZE] upright blades on a patchy meadow."""
    blades = smooth_noise(rng, 26, 90)
    return 0.2 * smooth_noise(rng, 5, 5) + 0.28 * blades


def water_shade(rng: Rng) -> np.ndarray:
    """[SIZE, SIZE] wavy stripes."""
    rows = np.arange(SIZE)[:, None] + 5 * smooth_noise(rng, 5, 5)
    waves = np.sin(2 * np.pi * rows / rng.uniform(6, 10) + rng.uniform(0, 2 * np.pi))
    return 0.16 * waves + 0.16 * smooth_noise(rng, 20, 8)


SHADES = {"sky": sky_shade, "grass": grass_shade, "water": water_shade}


def own_color(rng: Rng, category: Category, spread: float) -> np.ndarray:
    """[3] RGB near the typical colour of the class."""
    return np.array(category.color) + rng.normal(0, spread, 3)


def thing_shade(rng: Rng, thing: Thing) -> np.ndarray:
    """[SIZE, SIZE] lit from one side, spotted, with a darker rim."""
    columns, rows = np.arange(SIZE), np.arange(SIZE)[:, None]
    lit = (thing.center[0] - columns + thing.center[1] - rows) / thing.radius
    shade = 0.14 * lit + 0.16 * smooth_noise(rng, 24, 24)
    rim = cv2.polylines(np.zeros((SIZE, SIZE), np.uint8), [thing.corners()], True, (1,))
    return np.where(rim, -0.5, shade)


def paint(canvas: np.ndarray, mask: np.ndarray, color: np.ndarray, shade: np.ndarray) -> None:
    """Fills the mask [SIZE, SIZE] of the canvas [SIZE, SIZE, 3] with a colour [3] made brighter."""
    canvas[mask] = color * (1 + shade[mask])[:, None]


def curve(rng: Rng, height: float) -> np.ndarray:
    """[SIZE] rows of a curved border that runs from left to right at about this height."""
    steps = np.linspace(0, 2 * np.pi, SIZE)
    waves = (rng.uniform(2, 7) * np.sin(k * steps / 2 + rng.uniform(0, 6.3)) for k in (1, 2, 3))
    return height + sum(waves)


def lay_out_stuff(rng: Rng, stuff: Sequence[Category]) -> np.ndarray:
    """[SIZE, SIZE] uint8 class ids: sky above, the rest below it in a random order."""
    sky, *ground = stuff
    semantic = np.full((SIZE, SIZE), sky.id, np.uint8)
    heights = (rng.uniform(0.2, 0.45) * SIZE, rng.uniform(0.6, 0.8) * SIZE)
    for height, at in zip(heights, rng.permutation(len(ground)), strict=True):
        semantic[np.arange(SIZE)[:, None] >= curve(rng, height)] = ground[at].id
    return semantic


def propose_thing(rng: Rng, categories: Sequence[Category], placed: Sequence[Thing]) -> Thing:
    """A thing anywhere, or beside one of its own class: touching things need separating."""
    radius, angle = rng.uniform(*RADIUS), rng.uniform(0, 2 * np.pi)
    if not placed or rng.random() >= SHARE_BESIDE_OWN_CLASS:
        category = categories[rng.integers(len(categories))]
        return Thing(category, rng.uniform(8, SIZE - 8, 2), radius, angle)
    other = placed[rng.integers(len(placed))]
    direction = rng.uniform(0, 2 * np.pi)
    distance = (radius + other.radius) * rng.uniform(0.7, 1.0)
    center = other.center + distance * np.array([math.cos(direction), math.sin(direction)])
    return Thing(other.category, center, radius, angle)


def cover(masks: Iterable[np.ndarray]) -> np.ndarray:
    """[SIZE, SIZE] which thing is in front: 0 for none, else 1 + its index; later ones cover."""
    front = np.zeros((SIZE, SIZE), np.int64)
    for number, mask in enumerate(masks, start=1):
        front[mask] = number
    return front


def all_visible(masks: Sequence[np.ndarray]) -> bool:
    """Whether enough of every thing is left after the later ones have covered it."""
    visible = np.bincount(cover(masks).ravel(), minlength=len(masks) + 1)[1:]
    whole = np.array([mask.sum() for mask in masks])
    return bool(np.all(visible >= np.maximum(MIN_VISIBLE_AREA, MIN_VISIBLE_SHARE * whole)))


def place_things(rng: Rng, categories: Sequence[Category]) -> list[Thing]:
    """Three to seven things, the front ones last; a place that hides too much is drawn again."""
    things: list[Thing] = []
    count = rng.integers(*NUM_THINGS, endpoint=True)
    while len(things) < count:
        proposed = [*things, propose_thing(rng, categories, things)]
        if all_visible([thing.mask() for thing in proposed]):
            things = proposed
    return things


def develop(rng: Rng, canvas: np.ndarray) -> np.ndarray:
    """[SIZE, SIZE, 3] uint8: the light of the day, a lens that is not quite sharp, and grain."""
    light = rng.uniform(0.85, 1.1) * (1 + rng.normal(0, 0.03, 3))
    lit: np.ndarray = canvas * light.astype(np.float32)
    soft = cv2.GaussianBlur(lit, (3, 3), 0.5)
    grain = 5 * rng.standard_normal(canvas.shape, np.float32)
    return np.clip(soft + grain, 0, 255).astype(np.uint8)


def segment_info(panoptic: np.ndarray, segment_id: int) -> dict[str, int | list[int]]:
    """COCO's record of one segment; ``bbox`` is x, y, width, height."""
    mask = (panoptic == segment_id).astype(np.uint8)
    return {
        "id": segment_id,
        "category_id": segment_id // 1000 - 1,
        "area": int(cv2.countNonZero(mask)),
        "bbox": list(cv2.boundingRect(mask)),
        "iscrowd": 0,
    }


def draw_scene(rng: Rng, categories: Sequence[Category]) -> Scene:
    """Stuff, then the things in front of it. A segment's id is 1000 (class + 1) + its number."""
    stuff = [category for category in categories if not category.isthing]
    canvas = np.empty((SIZE, SIZE, 3), np.float32)
    semantic = lay_out_stuff(rng, stuff)
    for category in stuff:
        shade = SHADES[category.name](rng)
        paint(canvas, semantic == category.id, own_color(rng, category, spread=9), shade)
    numbers = np.zeros((SIZE, SIZE), np.int64)
    things = place_things(rng, [category for category in categories if category.isthing])
    for number, thing in enumerate(things, start=1):
        mask = thing.mask()
        color = own_color(rng, thing.category, spread=15)
        paint(canvas, mask, color, thing_shade(rng, thing))
        semantic[mask], numbers[mask] = thing.category.id, number
    panoptic = 1000 * (semantic.astype(np.int64) + 1) + numbers
    segments = [segment_info(panoptic, id_) for id_ in np.unique(panoptic).tolist()]
    return Scene(develop(rng, canvas), semantic, panoptic, segments)


def write_scene(scene: Scene, output: Path, split: str, stem: str) -> None:
    """Writes the picture and its two label maps."""
    # 4:4:4: halved colour resolution would smear the rims of things this small
    image_path = output / "images" / split / f"{stem}.jpg"
    Image.fromarray(scene.image).save(image_path, quality=95, subsampling="4:4:4")
    Image.fromarray(scene.semantic).save(output / "annotations" / split / f"{stem}.png")
    Image.fromarray(id2rgb(scene.panoptic)).save(output / f"panoptic_{split}" / f"{stem}.png")


def write_split(
    output: Path, split: str, count: int, seed: int, categories: Sequence[Category]
) -> None:
    """Draws and writes ``count`` images of a split and its COCO panoptic JSON."""
    for folder in (f"images/{split}", f"annotations/{split}", f"panoptic_{split}"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for image_id in range(1, count + 1):
        stem = f"{image_id:06d}"
        scene = draw_scene(image_rng(seed, split, image_id), categories)
        write_scene(scene, output, split, stem)
        image = {"id": image_id, "file_name": f"{stem}.jpg", "width": SIZE, "height": SIZE}
        segments = {"file_name": f"{stem}.png", "segments_info": scene.segments}
        images.append(image)
        annotations.append({"image_id": image_id, **segments})
    table = {"categories": [category._asdict() for category in categories]}
    panoptic = {"images": images, "annotations": annotations, **table}
    write_json(output / f"panoptic_{split}.json", panoptic)


def write_json(path: Path, content: dict | list) -> None:
    """Writes ``content`` with a newline at the end."""
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def write_description(output: Path, categories: Sequence[Category]) -> None:
    """Writes what the package's own description of shapes says, for other classes."""
    splits = {
        split: {
            "images": f"images/{split}",
            "labels": f"annotations/{split}",
            "panoptic": f"panoptic_{split}",
            "json": f"panoptic_{split}.json",
        }
        for split in SPLITS
    }
    write_json(output / "classes.json", [category._asdict() for category in categories])
    head = {"name": f"shapes{len(categories)}", "task": "panoptic", "classes": "classes.json"}
    # JSON is YAML, too.
    write_json(output / "dataset.yaml", {**head, "ignore": [255], "splits": splits})


def record_of(seed: int, counts: dict[str, int], num_classes: int) -> dict[str, Any]:
    """What tells one data set from another: the content of ``shapes.json``."""
    numbers = {"num_images": counts, "num_classes": num_classes}
    return {"version": VERSION, "seed": seed, **numbers}


def prepare(output: Path, seed: int, counts: dict[str, int], num_classes: int = 7) -> None:
    """Writes the whole data set over whatever an earlier run left in ``output``.

    Args:
        output: The folder; made when missing.
        seed: 0 or more.
        counts: Images of each split.
        num_classes: 7, or up to 67 with other things.
    """
    record = output / "shapes.json"
    record.unlink(missing_ok=True)  # an interrupted run must not pass for a finished one
    categories = load_categories(num_classes)
    for split in SPLITS:
        write_split(output, split, counts[split], seed, categories)
    if num_classes > 7:
        write_description(output, categories)
    write_json(record, record_of(seed, counts, num_classes))


def at_least(minimum: int) -> Callable[[str], int]:
    """A type of argparse: whole numbers from ``minimum`` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= {minimum}")
        return int(text)

    return number


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; ends the program with one sentence when a value cannot serve."""
    parser = argparse.ArgumentParser(
        description="Draw shapes, a small synthetic panoptic data set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    # required: without SUPPRESS its help would speak of a default
    add("--output", type=Path, required=True, default=argparse.SUPPRESS, help="folder to write")
    add("--seed", type=at_least(0), default=0, help="the same seed draws the same pictures")
    add("--num-train", type=at_least(1), default=1200, help="training images")
    add("--num-val", type=at_least(1), default=100, help="images to report results on")
    add(
        "--num-classes",
        type=int,
        choices=range(7, 3 + len(HUES) * len(POLYGONS) + 1),
        metavar="{7..67}",
        default=7,
        help="three of stuff, the rest things; above 7 each a form in a colour",
    )
    add("--num-dev", type=at_least(1), default=100, help="images to choose settings on")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, draws, and says what was written."""
    args = parse_args(argv)
    counts = {split: getattr(args, f"num_{split}") for split in SPLITS}
    try:
        prepare(args.output, args.seed, counts, args.num_classes)
    except OSError as error:
        raise SystemExit(
            f"cannot write the data set: {error}; choose a folder for --output that can be written"
        ) from error
    print(f"{args.output}: {', '.join(f'{n} {split}' for split, n in counts.items())} images")
