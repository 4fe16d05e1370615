"""What both visualizers paint, with which colour, and where they write."""

from typing import Any

import numpy as np
import pytest

from mask_former.d2.visualization.drawing import (
    FastVisualizer,
    Label,
    SteadyVisualizer,
    enlarge,
    in_drawing_order,
    place_labels,
    text_color,
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
    # Left of the small mark that an empty label leaves.
    np.testing.assert_allclose(
        after[13:37, 13:19], expected[13:37, 13:19], atol=2 * ROUNDING[visualizer]
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


@BOTH
def test_labels_lie_where_they_are_placed(visualizer: Visualizer) -> None:
    """What a label changes is its ground, to the pixel, but for matplotlib's smooth edges."""
    image = np.full((200, 300, 3), 128, np.uint8)
    mask = np.zeros((200, 300), bool)
    mask[20:180, 20:280] = True
    texts = ("triangle", "")
    stuff = [{"classes": [region(mask, category=text, is_thing=False)]} for text in texts]
    after, before = (visualizer(image).draw(found).get_image().astype(int) for found in stuff)
    rows, columns = (after != before).any(axis=-1).nonzero()
    drawer = visualizer(image)
    [label] = place_labels(list(in_drawing_order(stuff[0])), (200, 300), drawer._measure)
    width, height = drawer._measure("triangle", label.size)
    assert columns.min() == pytest.approx(label.x, abs=1)
    assert columns.max() == pytest.approx(label.x + width - 1, abs=1)
    assert rows.min() == pytest.approx(label.y, abs=1)
    assert rows.max() == pytest.approx(label.y + height - 1, abs=1)


def labels(*regions: Region, letter: int = 6, height: int = 12) -> dict[str, Label]:
    """Labels by their text; a letter is 6 pixels wide, less in smaller letters, a line 12 high."""

    def measure(text: str, size: float) -> tuple[int, int]:
        return round(letter * size * len(text)), round(height * size)

    strokes = list(in_drawing_order({"segments_info": list(regions)}))
    placed = place_labels(strokes, regions[0].mask.shape, measure)
    return {label.text: label for label in placed}


def rectangle(
    top: int, bottom: int, left: int, right: int, size: tuple[int, int] = (100, 200)
) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def test_stuff_is_labelled_where_its_label_lies_deepest() -> None:
    mask = rectangle(40, 80, 0, 300, (120, 300))
    mask[:, 220:] = 1  # the widest place is around x = 260, y = 60
    label = labels(region(mask, category="water", is_thing=False))["water"]
    assert (label.x + 15, label.y + 6) == (pytest.approx(260, abs=3), pytest.approx(60, abs=25))


def test_a_large_thing_is_labelled_upon_it_and_a_small_one_below() -> None:
    large, small = rectangle(10, 60, 10, 90), rectangle(10, 20, 150, 160)
    placed = labels(region(large, category="large"), region(small, category="small"))
    assert (placed["large"].x + 15, placed["large"].y + 6) == (pytest.approx(50, abs=1), 35)
    assert placed["small"] == Label("small", 144, 20, 0.75, text_color(COLOR))  # 22 wide: smaller


def test_a_label_beside_a_thing_covers_no_other_thing() -> None:
    first = region(rectangle(40, 50, 90, 100), category="first")
    below = region(rectangle(50, 99, 60, 140), category="below")
    label = labels(first, below)["first"]
    assert label.y + 9 == 40  # above
    above = region(rectangle(0, 40, 60, 140), category="above")
    label = labels(first, below, above)["first"]
    assert (label.x, label.y) == (100, 40)  # right
    right = region(rectangle(40, 50, 100, 140), category="right")
    label = labels(first, below, above, right)["first"]
    assert label.x + 22 == 90  # left
    left = region(rectangle(40, 50, 60, 90), category="left")
    assert "first" not in labels(first, below, above, right, left)  # there is no room


def test_labels_beside_things_are_inside_the_picture() -> None:
    for top, left in ((0, 0), (0, 196), (96, 0), (96, 196)):
        [label] = labels(
            region(rectangle(top, top + 4, left, left + 4), category="corner")
        ).values()
        assert 0 <= label.x <= 200 - 27
        assert 0 <= label.y <= 100 - 9


def test_labels_are_apart() -> None:
    """Ten small things in a row, whose labels are wider than they are: three find room below."""
    things = [
        region(rectangle(48, 52, 40 + 10 * i, 44 + 10 * i), category=f"thing {i}")
        for i in range(10)
    ]
    placed = list(labels(*things).values())
    assert len(placed) >= 4
    ground = np.zeros((100, 200), int)
    for label in placed:
        ground[label.y : label.y + 9, label.x : label.x + 32] += 1
    assert ground.max() == 1
    assert not ground[48:52].any()


def test_stuff_without_room_has_no_label() -> None:
    narrow = rectangle(0, 100, 95, 100)
    assert labels(region(narrow, category="pole", is_thing=False)) == {}


def test_stuff_makes_way_for_the_label_of_a_thing() -> None:
    ground = region(rectangle(0, 100, 0, 200), category="ground", is_thing=False)
    thing = region(rectangle(36, 41, 98, 102), category="thing")
    placed = labels(ground, thing)
    assert placed["thing"].y == 41
    down, aside = placed["ground"].y - 50, placed["ground"].x - 113
    assert down >= 0 or placed["ground"].y + 12 <= 36 or aside >= 0 or placed["ground"].x + 36 <= 87


def luminance(color: tuple[float, ...]) -> float:
    """Relative luminance as WCAG 2 defines it."""
    light = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    return float(np.dot(light, (0.2126, 0.7152, 0.0722)))


def test_letters_are_light() -> None:
    for color in ((0, 0, 0), (0, 0, 0.3), (0, 0, 1), (1, 0, 0), (0.5, 0.5, 0.5)):
        assert luminance(text_color(color)) == pytest.approx(0.35)
    for color in ((1, 1, 1), (1, 1, 0), (0, 1, 0)):
        assert text_color(color) == pytest.approx(color)


def test_small_pictures_are_enlarged() -> None:
    image = noise(100, 200)  # 141 pixels in the mean; three times as large is 424
    thing = region(rectangle(10, 30, 20, 60), box=(20.0, 10.0, 60.0, 30.0))
    large, found = enlarge(image, {"instances": [thing]})
    assert large.shape == (300, 600, 3)
    [grown] = found["instances"]
    assert grown.box == (60.0, 30.0, 180.0, 90.0)
    differing = grown.mask != thing.mask.repeat(3, axis=0).repeat(3, axis=1)
    assert differing.sum() <= 4  # the corners are rounder
    assert enlarge(noise(400, 400), found)[1] is found


def test_enlarged_regions_leave_no_gap() -> None:
    left = np.tri(100, 100, dtype=np.uint8)
    image = noise(100, 100)
    _, found = enlarge(image, {"classes": [region(left), region(1 - left)]})
    total = sum(part.mask.astype(int) for part in found["classes"])
    assert (total == 1).mean() > 0.99
