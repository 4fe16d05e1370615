"""Draws regions over a picture: with matplotlib or, fast, with OpenCV, in the same colours."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from detectron2.utils.visualizer import GenericMask, VisImage, Visualizer
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.text import Text

from .regions import Color, Found, Region, to_bytes

OPACITY = {"classes": 0.8, "segments_info": 0.7, "instances": 0.5}
_OFF_WHITE = (1.0, 1.0, 0.94)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_PIXELS = 30  # height of its line at scale 1
_LETTERS = (1.0, 0.75)  # sizes that are tried for a label, relative to what suits the picture
_SHARE = 0.4  # of its region that a label may cover
# Relative luminance of letters. Their ground is a picture at a fifth of its brightness, 0.033 at
# most, so that the contrast is at least 4.8; WCAG asks for 4.5.
_LUMINANCE = 0.35

Window = tuple[slice, slice]
"""Rows and columns of a picture."""
Measure = Callable[[str, float], tuple[int, int]]
"""Width and height in pixels that a text takes in letters of a relative size."""


class Stroke(NamedTuple):
    """A region that is to be painted, its opacity and the tightest window around it."""

    region: Region
    opacity: float
    window: Window


class Label(NamedTuple):
    """A region's name and where it is written; x and y are the upper left corner of its ground."""

    text: str
    x: int
    y: int
    size: float
    """Size of the letters, relative to the one that suits the picture."""
    color: Color


class SteadyVisualizer(Visualizer):
    """Detectron2's visualizer, with the colours of the regions and labels in their place.

    Detectron2 draws things in random colours and over their holes, writes the name of stuff at the
    median of its pixels, often upon something else, and cuts off labels at the edges.
    """

    def draw(self, found: Found) -> VisImage:
        """The picture with all regions, which are of its size."""
        strokes = list(in_drawing_order(found))
        for region, opacity, _ in strokes:
            self._fill(region, opacity)
            if region.box is not None:
                self.draw_box(region.box, edge_color=region.color)
        for label in place_labels(strokes, self.img.shape[:2], self._measure):
            text = self._write(label.text, label.size, label.color)
            # A little left of and above (0, 0): the margin of its ground.
            x, y, _, _ = self._extent(text)
            text.set_position((label.x - x, label.y - y))
        return self.output

    def _fill(self, region: Region, opacity: float) -> None:
        """One path of all outlines: those of holes turn the other way, and leave them open."""
        mask = GenericMask(region.mask, *region.mask.shape)
        outlines = [points.reshape(-1, 2) for points in mask.polygons]
        if not outlines:  # of one or two pixels
            return
        paths = [Path(np.vstack([points, points[:1]]), closed=True) for points in outlines]
        patch = PathPatch(
            Path.make_compound_path(*paths),
            facecolor=(*region.color, opacity),
            edgecolor=edge_color(region),
            linewidth=1.0,
        )
        self.output.ax.add_patch(patch)

    def _write(self, text: str, size: float, color: Color = _OFF_WHITE) -> Text:
        """Writes in the upper left corner of the picture."""
        font_size = self._default_font_size * size
        self.draw_text(text, (0, 0), font_size=font_size, color=color, horizontal_alignment="left")
        return self.output.ax.texts[-1]

    def _extent(self, text: Text) -> tuple[float, float, float, float]:
        """x, y, width and height of the ground of a text, in pixels of the picture."""
        text.update_bbox_position_size(renderer := self.output.canvas.get_renderer())
        ground = text.get_bbox_patch()
        assert ground is not None  # Detectron2 draws every text on one
        box = ground.get_window_extent(renderer)
        scale = self.output.scale
        # In the drawing's own pixels y points up.
        return (
            box.x0 / scale,
            self.output.height - box.y1 / scale,
            box.width / scale,
            box.height / scale,
        )

    def _measure(self, text: str, size: float) -> tuple[int, int]:
        written = self._write(text, size)
        _, _, width, height = self._extent(written)
        written.remove()
        return math.ceil(width), math.ceil(height)


class FastVisualizer:
    """Draws what ``SteadyVisualizer`` draws, with plainer lines and letters, in a fraction of time.

    Args:
        image: [H, W, 3]; RGB, uint8.
    """

    def __init__(self, image: np.ndarray) -> None:
        self.image = image.copy(order="C")
        side = math.sqrt(image.shape[0] * image.shape[1])
        self._line = max(round(side / 900), 1)
        self._font_pixels = max(side / 65, 14.0)  # as large as matplotlib's

    def get_image(self) -> np.ndarray:
        """The drawing [H, W, 3]; RGB, uint8."""
        return self.image

    def draw(self, found: Found) -> "FastVisualizer":
        """The picture with all regions, which are of its size."""
        strokes = list(in_drawing_order(found))
        for region, opacity, window in strokes:
            self._fill(region, opacity, window)
            if region.box is not None:
                x0, y0, x1, y1 = (round(value) for value in region.box)
                color = to_bytes(region.color)
                cv2.rectangle(self.image, (x0, y0), (x1 - 1, y1 - 1), color, self._line)
        height, width = self.image.shape[:2]
        for label in place_labels(strokes, (height, width), self._measure):
            self._write(label)
        return self

    def _fill(self, region: Region, opacity: float, window: Window) -> None:
        mask, view = np.ascontiguousarray(region.mask[window]), self.image[window]
        painted = cv2.LUT(view, blending_table(region.color, opacity))
        outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(painted, outlines, -1, to_bytes(edge_color(region)), self._line)
        cv2.copyTo(painted, mask, view)

    def _letters(self, size: float) -> tuple[float, int]:
        """OpenCV's scale and thickness of letters of a relative size."""
        scale = self._font_pixels * size / _FONT_PIXELS
        return scale, 1 if scale < 0.65 else self._line  # thick strokes would fill small letters

    def _measure(self, text: str, size: float) -> tuple[int, int]:
        (width, height), below = cv2.getTextSize(text, _FONT, *self._letters(size))
        margin = self._line + 1
        return width + 2 * margin, height + below + 2 * margin

    def _write(self, label: Label) -> None:
        width, height = self._measure(label.text, label.size)
        ground = self.image[label.y : label.y + height, label.x : label.x + width]
        ground[:] = cv2.LUT(ground, blending_table((0.0, 0.0, 0.0), 0.8))
        scale, thickness = self._letters(label.size)
        (_, ascent), _ = cv2.getTextSize(label.text, _FONT, scale, thickness)
        place = (label.x + self._line + 1, label.y + self._line + 1 + ascent)
        color = to_bytes(label.color)
        cv2.putText(self.image, label.text, place, _FONT, scale, color, thickness, cv2.LINE_AA)


def enlarge(image: np.ndarray, found: Found, side: int = 400) -> tuple[np.ndarray, Found]:
    """A small picture and its regions, so large that labels have room beside what they name.

    Args:
        image: [H, W, 3]; uint8.
        found: its regions.
        side: pixels; a picture whose sides' geometric mean is lower is enlarged by the smallest
            whole factor that makes it at least as large.

    Returns:
        The picture [f H, f W, 3] and the regions; the same where f is 1.
    """
    factor = math.ceil(side / math.sqrt(image.shape[0] * image.shape[1]))
    if factor <= 1:
        return image, found

    def grow(region: Region) -> Region:
        # Interpolated and cut in the middle: the outline stays smooth.
        soft = cv2.resize(255 * region.mask, None, fx=factor, fy=factor)
        mask = (soft >= 128).view(np.uint8)
        box = region.box
        if box is not None:
            box = (factor * box[0], factor * box[1], factor * box[2], factor * box[3])
        return region._replace(mask=mask, box=box)

    large = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return large, {kind: [grow(region) for region in regions] for kind, regions in found.items()}


def in_drawing_order(found: Found) -> Iterator[Stroke]:
    """What is to be painted: stuff, then things; each from large to small."""
    for kind, regions in found.items():
        strokes = [Stroke(r, OPACITY[kind], window_of(r.mask)) for r in regions]
        areas = [cv2.countNonZero(stroke.region.mask[stroke.window]) for stroke in strokes]
        rows = [(area, stroke) for area, stroke in zip(areas, strokes, strict=True) if area]
        for _, stroke in sorted(rows, key=lambda row: (row[1].region.is_thing, -row[0])):
            yield stroke


def window_of(mask: np.ndarray) -> Window:
    """The tightest around a mask [H, W] (uint8); of no pixels if that is empty."""
    x, y, width, height = cv2.boundingRect(mask)
    return slice(y, y + height), slice(x, x + width)


def place_labels(
    strokes: Sequence[Stroke], size: tuple[int, int], measure: Measure
) -> Iterator[Label]:
    """Labels that cover neither each other nor a thing that is not theirs.

    A label stands upon what is seen of its region or, of a thing, beside it. Things come first,
    since a label of stuff has more places to go to. What has no room has no label.

    Args:
        strokes: the regions in drawing order.
        size: height and width of the picture.
        measure: the size of a text.
    """
    owners = np.zeros(size, np.int32)  # which stroke is seen, from 1; 0 under labels
    blocked = np.zeros(size, np.uint8)  # things and labels
    for number, (region, _, window) in enumerate(strokes, start=1):
        inside = region.mask[window].view(bool)
        owners[window][inside] = number
        blocked[window][inside] = region.is_thing
    rows = list(enumerate(strokes, start=1))
    for number, (region, _, window) in sorted(rows, key=lambda row: not row[1].region.is_thing):
        seen = (owners[window] == number).view(np.uint8)
        for letters in _LETTERS:
            width, height = measure(region.label, letters)
            spot = place_inside(seen, window, width, height)
            if spot is None and region.is_thing and letters == _LETTERS[-1]:
                spot = place_beside(blocked, window, width, height)
            if spot is not None:
                x, y = spot
                owners[y : y + height, x : x + width] = 0
                blocked[y : y + height, x : x + width] = 1
                yield Label(region.label, x, y, letters, text_color(region.color))
                break


def place_inside(
    mask: np.ndarray, window: Window, width: int, height: int
) -> tuple[int, int] | None:
    """Where a label lies deepest in a mask, if it covers no more than a part of that.

    Args:
        mask: [h, w]; uint8, the window of it.
        window: the place of that window in the picture.
        width: pixels that the label is wide.
        height: pixels that it is high.

    Returns:
        x and y of the label's upper left corner in the picture.
    """
    area = width * height
    if area > _SHARE * cv2.countNonZero(mask) or height > mask.shape[0] or width > mask.shape[1]:
        return None
    sums = cv2.integral(mask)  # [h + 1, w + 1]
    covered = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width]
    covered += sums[:-height, :-width]  # by a label with its corner here
    # Zeros around: no label at the edge of the picture.
    fits = np.pad((covered == area).view(np.uint8), 1)
    depth = cv2.distanceTransform(fits, cv2.DIST_L2, 3)
    deepest = np.argwhere(depth == depth.max())
    y, x = deepest[len(deepest) // 2]
    if not depth[y, x]:
        return None
    rows, columns = window
    return columns.start + int(x) - 1, rows.start + int(y) - 1


def place_beside(
    blocked: np.ndarray, window: Window, width: int, height: int
) -> tuple[int, int] | None:
    """Where a label covers nothing blocked: below a window, above it, right or left of it.

    Args:
        blocked: [H, W]; uint8.
        window: the window of a thing.
        width: pixels that the label is wide.
        height: pixels that it is high.

    Returns:
        x and y of the label's upper left corner.
    """
    rows, columns = window
    x = (columns.start + columns.stop - width) // 2
    y = (rows.start + rows.stop - height) // 2
    inner_x = min(max(x, 0), blocked.shape[1] - width)
    inner_y = min(max(y, 0), blocked.shape[0] - height)
    spots = [(inner_x, rows.stop), (inner_x, rows.start - height)]
    spots += [(columns.stop, inner_y), (columns.start - width, inner_y)]
    for x, y in spots:
        ground = blocked[max(y, 0) : y + height, max(x, 0) : x + width]
        if ground.shape == (height, width) and not ground.any():
            return x, y
    return None


def edge_color(region: Region) -> Color:
    """Stuff has light outlines; things have their own colour's."""
    return region.color if region.is_thing else _OFF_WHITE


def text_color(color: Color) -> Color:
    """The colour with as much white as makes letters of it readable on their dark ground."""
    light = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]  # linear
    luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]
    white = max(0.0, (_LUMINANCE - luminance) / (1 - luminance)) if luminance < 1 else 0.0
    mixed = [value + white * (1 - value) for value in light]
    red, green, blue = (
        12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in mixed
    )
    return red, green, blue


def blending_table(color: Color, opacity: float) -> np.ndarray:
    """What each value of a channel becomes, blended with a colour: [1, 256, 3], for ``cv2.LUT``."""
    values = np.arange(256.0)[None, :, None]
    blend = (1 - opacity) * values + opacity * 255 * np.asarray(color)
    return np.rint(blend).astype(np.uint8)
