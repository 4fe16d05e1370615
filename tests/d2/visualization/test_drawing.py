"""What both visualizers paint, with which colour, and where they write."""

from typing import Any

import numpy as np
import pytest

from mask_former.d2.visualization.drawing import (
    FastVisualizer,
    SteadyVisualizer,
    place_label,
    text_color,
    window_of,
)
from mask_former.d2.visualization.regions import Region

Visualizer = type[SteadyVisualizer] | type[FastVisualizer]

# Rounding of a blend; matplotlib rounds the opacity as well.
ROUNDING = {SteadyVisualizer: 1.5, FastVisualizer: 0.501}
BOTH = pytest.mark.parametrize("visualizer", [SteadyVisualizer, FastVisualizer])
COLOR = (0.8, 0.2, 0.4)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def region(mask: np.ndarray, **fields: Any) -> Region:
    """A thing without a name, which leaves but a small mark."""
    values = {"id": 1, "category_id": 3, "category": "", "is_thing": True, "color": COLOR}
    return Region(**{**values, **fields}, mask=mask.astype(np.uint8))


def blend(image: np.ndarray, opacity: float, color: tuple[float, ...] = COLOR) -> np.ndarray:
    return image * (1 - opacity) + 255 * opacity * np.array(color)


@BOTH
@pytest.mark.parametrize(
    ("kind", "opacity"), [("classes", 0.8), ("segments_info", 0.7), ("instances", 0.5)]
)
def test_blends_inside_and_leaves_the_rest(
    visualizer: Visualizer, kind: str, opacity: float
) -> None:
    """Edges are within 2 pixels of the outline, the label around its widest place."""
    image = noise(120, 200)
    mask = np.zeros((120, 200), bool)
    mask[20:100, 30:150] = True
    found = {kind: [region(mask)]}
    after = visualizer(image).draw(found).get_image()
    inside = np.zeros_like(mask)
    inside[23:97, 33:147] = True
    inside[40:100, 60:120] = False  # the label's
    np.testing.assert_allclose(
        after[inside], blend(image, opacity)[inside], atol=ROUNDING[visualizer]
    )
    margin = 0 if visualizer is FastVisualizer else 2  # matplotlib's outlines are smooth
    outside = np.ones_like(mask)
    outside[20 - margin : 100 + margin, 30 - margin : 150 + margin] = False
    np.testing.assert_array_equal(after[outside], image[outside])


@BOTH
def test_does_not_change_its_input(visualizer: Visualizer) -> None:
    image = noise(60, 60)
    before = image.copy()
    found = {"classes": [region(np.ones((60, 60)))]}
    after = visualizer(image[:, :, ::-1]).draw(found).get_image()
    np.testing.assert_array_equal(image, before)
    assert (after != image[:, :, ::-1]).mean() > 0.5


@BOTH
@pytest.mark.parametrize("is_thing", [True, False])
def test_holes_stay_open(visualizer: Visualizer, is_thing: bool) -> None:
    """Detectron2 paints holes of things twice."""
    image = noise(120, 200)
    mask = np.zeros((120, 200), bool)
    mask[10:110, 10:190] = True
    mask[30:90, 70:130] = False
    found = {"segments_info": [region(mask, is_thing=is_thing)]}
    after = visualizer(image).draw(found).get_image()
    np.testing.assert_array_equal(after[32:88, 72:128], image[32:88, 72:128])
    ring = np.s_[94:106, 14:186]
    np.testing.assert_allclose(after[ring], blend(image, 0.7)[ring], atol=ROUNDING[visualizer])


@BOTH
def test_small_things_lie_on_large_ones(visualizer: Visualizer) -> None:
    image = noise(120, 200)
    small, large = np.zeros((2, 120, 200), bool)
    small[10:40, 10:40] = True
    large[5:115, 5:195] = True
    colors = [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0)]
    things = [region(mask, color=color) for mask, color in zip((small, large), colors, strict=True)]
    after = visualizer(image).draw({"instances": things}).get_image()
    expected = blend(blend(image, 0.5, colors[1]), 0.5, colors[0])
    np.testing.assert_allclose(
        after[13:37, 13:37], expected[13:37, 13:37], atol=2 * ROUNDING[visualizer]
    )


@BOTH
def test_boxes_in_the_color_of_the_instance(visualizer: Visualizer) -> None:
    image = np.full((120, 200, 3), 128, np.uint8)
    mask = np.zeros((120, 200), bool)
    mask[50:70, 80:120] = True
    box = (40.0, 20.0, 160.0, 100.0)
    found = {"instances": [region(mask, box=box)]}
    after = visualizer(image).draw(found).get_image().astype(int)
    for place in (np.s_[98:102, 50:150], np.s_[30:90, 158:162]):  # bottom and right
        redness = (after[place] - 128)[..., 0].max(axis=0 if place[0].start == 98 else 1)
        assert (redness > 20).all()
    assert (after[72:96, 45:155] == 128).all()


@BOTH
def test_nothing_found(visualizer: Visualizer) -> None:
    image = noise(50, 70)
    found = {"classes": [], "instances": [region(np.zeros((50, 70)))]}
    after = visualizer(image).draw(found).get_image()
    np.testing.assert_array_equal(after, image)


def written(visualizer: Visualizer, mask: np.ndarray, label: str) -> np.ndarray:
    """Where a label makes a difference."""
    image = np.full((*mask.shape, 3), 128, np.uint8)
    pictures = [
        visualizer(image)
        .draw({"segments_info": [region(mask, category=text, is_thing=False)]})
        .get_image()
        .astype(int)
        for text in (label, "")
    ]
    return (pictures[0] != pictures[1]).any(axis=-1)


@BOTH
@pytest.mark.parametrize("corner", [(0, 0), (196, 0), (0, 96), (196, 96)])
def test_labels_are_moved_inside(visualizer: Visualizer, corner: tuple[int, int]) -> None:
    x, y = corner
    mask, middle = np.zeros((2, 100, 200), bool)
    mask[y : y + 4, x : x + 4] = True
    middle[48:52, 98:102] = True
    drawn = written(visualizer, mask, "triangle").nonzero()
    whole = written(visualizer, middle, "triangle").nonzero()
    for axis, expected in zip(drawn, whole, strict=True):
        assert abs(np.ptp(axis) - np.ptp(expected)) <= 10  # pixels; the mark of "" covers some
        assert np.ptp(axis) > 5


@BOTH
def test_stuff_is_labelled_where_it_is_widest(visualizer: Visualizer) -> None:
    mask = np.zeros((120, 300), bool)
    mask[40:80] = True
    mask[:, 220:] = True  # the widest place is around x = 260, y = 60
    rows, columns = written(visualizer, mask, "water").nonzero()
    assert columns.mean() == pytest.approx(260, abs=15)
    assert rows.mean() == pytest.approx(60, abs=30)


@pytest.mark.parametrize(
    ("box", "height", "place"),
    [
        ((40.0, 20.0, 160.0, 100.0), 80, (40, 20, False)),  # in the corner of the box
        (None, 20, (50, 30, False)),  # below
        (None, 81, (90, 50, True)),  # in the middle
    ],
)
def test_labels_of_things(box: tuple | None, height: int, place: tuple[int, int, bool]) -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[10 : 10 + height, 50:131] = 1
    thing = region(mask, box=box)
    label = place_label(thing, window_of(thing.mask))
    assert (label.x, label.y, label.centered) == place


def test_letters_are_light() -> None:
    for color in ((0.0, 0.0, 0.0), (0.0, 0.0, 0.3), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)):
        light = text_color(color)
        assert (max(light) + min(light)) / 2 >= 0.6 - 1e-9
