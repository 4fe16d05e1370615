"""Draws regions over a picture: with matplotlib or, fast, with OpenCV, in the same colours."""

import colorsys
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from detectron2.utils.visualizer import GenericMask, VisImage, Visualizer
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from .regions import Box, Color, Found, Region, to_bytes

OPACITY = {"classes": 0.8, "segments_info": 0.7, "instances": 0.5}
_OFF_WHITE = (1.0, 1.0, 0.94)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_PIXELS = 30  # height of its line at scale 1
_SMALL = 40  # pixels; a label would cover a thing of less height


Window = tuple[slice, slice]
"""Rows and columns of a picture."""


class Label(NamedTuple):
    """Where and how a region's label is written."""

    x: float
    y: float
    """The top of the letters."""
    centered: bool
    """Whether x is the middle of the text, or its left end."""
    size: float
    """Relative to the size that suits the picture."""
    color: Color


class SteadyVisualizer(Visualizer):
    """Detectron2's visualizer, with the colours of the regions and labels in their place.

    Detectron2 draws things in random colours and over their holes, writes the name of stuff at the
    median of its pixels, often upon something else, and cuts off labels at the edges.
    """

    def draw(self, found: Found) -> VisImage:
        """The picture with all regions, which are of its size."""
        for region, opacity, window in in_drawing_order(found):
            self._fill(region, opacity)
            if region.box is not None:
                self.draw_box(region.box, edge_color=region.color)
            label = place_label(region, window)
            self.draw_text(
                region.label,
                (label.x, label.y),
                font_size=self._default_font_size * label.size,
                color=label.color,
                horizontal_alignment="center" if label.centered else "left",
            )
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

    def draw_text(self, *args: Any, **kwargs: Any) -> VisImage:
        """Draws a label as Detectron2 does, then moves it inside the picture."""
        output = super().draw_text(*args, **kwargs)
        label = output.ax.texts[-1]
        label.update_bbox_position_size(renderer := output.canvas.get_renderer())
        # In pixels of the drawing; y points up, but down in the label's own position.
        box = label.get_bbox_patch().get_window_extent(renderer)
        right = max(0.0, -box.x0) - max(0.0, box.x1 - output.width * output.scale)
        up = max(0.0, -box.y0) - max(0.0, box.y1 - output.height * output.scale)
        x, y = label.get_position()
        label.set_position((x + right / output.scale, y - up / output.scale))
        return output


class FastVisualizer:
    """Draws what ``SteadyVisualizer`` draws, with plainer lines and letters, in a fraction of time.

    Args:
        image: [H, W, 3]; RGB, uint8.
    """

    def __init__(self, image: np.ndarray) -> None:
        self.image = image.copy(order="C")
        side = float(np.sqrt(image.shape[0] * image.shape[1]))
        self._line = max(round(side / 900), 1)
        self._font_pixels = max(side / 65, 14.0)  # as large as matplotlib's

    def get_image(self) -> np.ndarray:
        """The drawing [H, W, 3]; RGB, uint8."""
        return self.image

    def draw(self, found: Found) -> "FastVisualizer":
        """The picture with all regions, which are of its size."""
        regions = list(in_drawing_order(found))
        for region, opacity, window in regions:
            self._fill(region, opacity, window)
            if region.box is not None:
                self._draw_box(region.box, to_bytes(region.color))
        for region, _, window in regions:  # later, lest a region hides a label
            self._write(region.label, place_label(region, window))
        return self

    def _fill(self, region: Region, opacity: float, window: Window) -> None:
        mask, view = np.ascontiguousarray(region.mask[window]), self.image[window]
        painted = cv2.LUT(view, blending_table(region.color, opacity))
        outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(painted, outlines, -1, to_bytes(edge_color(region)), self._line)
        cv2.copyTo(painted, mask, view)

    def _draw_box(self, box: Box, color: tuple[int, ...]) -> None:
        x0, y0, x1, y1 = (round(value) for value in box)
        cv2.rectangle(self.image, (x0, y0), (x1 - 1, y1 - 1), color, self._line)

    def _write(self, text: str, label: Label) -> None:
        scale = self._font_pixels * label.size / _FONT_PIXELS
        thickness = 1 if scale < 0.65 else self._line  # thick strokes would fill small letters
        (width, height), below = cv2.getTextSize(text, _FONT, scale, thickness)
        margin = self._line + 1
        wide, high = width + 2 * margin, height + below + 2 * margin
        x = round(label.x - wide / 2 if label.centered else label.x)
        x = max(min(x, self.image.shape[1] - wide), 0)
        y = max(min(round(label.y), self.image.shape[0] - high), 0)
        ground = self.image[y : y + high, x : x + wide]
        ground[:] = cv2.LUT(ground, blending_table((0.0, 0.0, 0.0), 0.8))
        place = (x + margin, y + margin + height)
        color = to_bytes(label.color)
        cv2.putText(self.image, text, place, _FONT, scale, color, thickness, cv2.LINE_AA)


def in_drawing_order(found: Found) -> Iterator[tuple[Region, float, Window]]:
    """Regions with their opacity and window: stuff, then things; each from large to small."""
    for kind, regions in found.items():
        windows = [window_of(region.mask) for region in regions]
        pairs = zip(regions, windows, strict=True)
        rows = [(cv2.countNonZero(region.mask[window]), region, window) for region, window in pairs]
        rows = [row for row in rows if row[0]]
        for _, region, window in sorted(rows, key=lambda row: (row[1].is_thing, -row[0])):
            yield region, OPACITY[kind], window


def window_of(mask: np.ndarray) -> Window:
    """The tightest around a mask [H, W] (uint8); of no pixels if that is empty."""
    x, y, width, height = cv2.boundingRect(mask)
    return slice(y, y + height), slice(x, x + width)


def place_label(region: Region, window: Window) -> Label:
    """In the corner of a box, below a small thing, else where the region is widest."""
    rows, columns = window
    height = rows.stop - rows.start
    color = text_color(region.color)
    if not region.is_thing:
        return Label(*widest_place(region.mask, window), True, 1.0, color)
    side = float(np.sqrt(region.mask.size))
    size = min(max(5 * height / side, 0.6), 1.0)
    if region.box is not None:
        return Label(region.box[0], region.box[1], False, size, color)
    if height < _SMALL:
        return Label(columns.start, rows.stop, False, size, color)
    return Label(*widest_place(region.mask, window), True, size, color)


def widest_place(mask: np.ndarray, window: Window) -> tuple[int, int]:
    """The x and y of the pixel of a mask [H, W] that is farthest from its edge."""
    rows, columns = window
    framed = np.pad(mask[window], 1)  # no label at the edge of the picture
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return columns.start + int(x), rows.start + int(y)


def edge_color(region: Region) -> Color:
    """Stuff has light outlines; things have their own colour's."""
    return region.color if region.is_thing else _OFF_WHITE


def text_color(color: Color) -> Color:
    """A light colour of the same hue: the ground of the letters is dark."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*color)
    return colorsys.hls_to_rgb(hue, min(max(1.7 * lightness, 0.6), 1.0), saturation)


def blending_table(color: Color, opacity: float) -> np.ndarray:
    """For each value of a channel that of its blend with a colour: [1, 256, 3], for ``cv2.LUT``."""
    values = np.arange(256.0)[None, :, None]
    blend = (1 - opacity) * values + opacity * 255 * np.asarray(color)
    return np.rint(blend).astype(np.uint8)
