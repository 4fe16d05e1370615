"""Regions of predictions, their names and their colours."""

from colorsys import rgb_to_hls
from itertools import combinations

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances

from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.errors import InputError
from mask_former.d2.visualization.regions import class_metadata, find_regions, label_map, variant
from mask_former.d2.visualization.tracker import Tracker


@pytest.fixture
def metadata() -> Metadata:
    """Of the data set shapes: 7 classes, disc is 3, square 4."""
    return MetadataCatalog.get("shapes_panoptic_val")


def square(left: int, top: int, side: int = 20, size: tuple[int, int] = (60, 120)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def panoptic(things: list[tuple[int, np.ndarray]]) -> dict:
    """A panoptic result of grass and things (class, mask)."""
    ids = np.ones((60, 120), np.int32)
    segments = [{"id": 1, "category_id": 1, "isthing": False, "score": 0.5}]
    for number, (category, mask) in enumerate(things, start=2):
        ids[mask > 0] = number
        segments.append({"id": number, "category_id": category, "isthing": True, "score": 0.9})
    return {"panoptic_seg": (torch.from_numpy(ids), segments)}


def test_label_map_leaves_out_low_scores() -> None:
    scores = torch.tensor([[[0.9, 0.2]], [[0.1, 0.4]], [[0.0, 0.3]]])
    assert label_map(scores, 0.0).tolist() == [[0, 1]]
    assert label_map(scores, 0.4).tolist() == [[0, 1]]  # at the threshold it is painted
    assert label_map(scores, 0.5).tolist() == [[0, 3]]


def test_classes(metadata: Metadata) -> None:
    scores = torch.zeros(7, 2, 2)
    scores[2, 0] = 1.0
    scores[5, 1, 0] = 0.7
    scores[6, 1, 1] = 0.1
    found = find_regions({"sem_seg": scores}, metadata, 0.5)
    water, triangle = found["classes"]
    assert (water.id, water.category, water.is_thing) == (2, "water", False)
    assert water.mask.tolist() == [[1, 1], [0, 0]]
    assert triangle.mask.tolist() == [[0, 0], [1, 0]]
    assert [round(255 * value) for value in water.color] == metadata.stuff_colors[2]


def test_classes_of_labels(metadata: Metadata) -> None:
    labels = torch.tensor([[2, 2], [5, 2]])
    water, triangle = find_regions({"sem_seg": labels}, metadata)["classes"]
    assert (water.category, triangle.category) == ("water", "triangle")
    assert triangle.mask.tolist() == [[0, 0], [1, 0]]


def test_segments_come_before_classes(metadata: Metadata) -> None:
    predictions = {**panoptic([(3, square(0, 0))]), "sem_seg": torch.zeros(7, 60, 120)}
    found = find_regions(predictions, metadata)
    assert list(found) == ["segments_info"]
    grass, disc = found["segments_info"]
    assert (grass.id, grass.category, grass.label, grass.box) == (1, "grass", "grass", None)
    assert (disc.id, disc.category, disc.label) == (2, "disc", "disc 90%")
    np.testing.assert_array_equal(disc.mask, square(0, 0))


def test_segments_without_scores(metadata: Metadata) -> None:
    predictions = panoptic([(3, square(0, 0))])
    for segment in predictions["panoptic_seg"][1]:
        del segment["score"]
    found = find_regions(predictions, metadata)
    assert [region.label for region in found["segments_info"]] == ["grass", "disc"]


def test_instances_beside_classes(metadata: Metadata) -> None:
    masks = torch.from_numpy(np.stack([square(3, 5), square(9, 5)])).bool()
    instances = Instances((60, 120), pred_masks=masks, pred_classes=torch.tensor([3, 4]))
    predictions = {"sem_seg": torch.ones(7, 60, 120), "instances": instances}
    found = find_regions(predictions, metadata)
    assert list(found) == ["classes", "instances"]
    disc, box = found["instances"]
    assert (disc.id, disc.label, disc.box) == (1, "disc", (3.0, 5.0, 23.0, 25.0))
    assert (box.id, box.label, box.box) == (2, "square", (9.0, 5.0, 29.0, 25.0))
    instances.scores = torch.tensor([0.5, 0.25])
    instances.pred_boxes = Boxes(torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]))
    disc, box = find_regions(predictions, metadata)["instances"]
    assert (disc.label, disc.box) == ("disc 50%", (1.0, 2.0, 3.0, 4.0))
    assert (box.score, box.box) == (0.25, (5.0, 6.0, 7.0, 8.0))


def test_things_of_a_class_differ(metadata: Metadata) -> None:
    things = [(3, square(20 * i, 0)) for i in range(6)] + [(4, square(0, 30))]
    found = find_regions(panoptic(things), metadata)["segments_info"]
    discs = [region.color for region in found[1:7]]
    assert len(set(discs)) == 6
    hues = [360 * rgb_to_hls(*disc)[0] for disc in discs]
    apart = [abs((a - b + 180) % 360 - 180) for a, b in combinations(hues, 2)]
    assert min(apart) >= 30
    assert discs[0] == pytest.approx([value / 255 for value in metadata.thing_colors[3]])
    assert found[7].color == pytest.approx([value / 255 for value in metadata.thing_colors[4]])


@pytest.mark.parametrize("color", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.5, 0.5, 0.5)])
def test_things_of_a_grey_class_differ(color: tuple[float, float, float]) -> None:
    colors = [variant(color, number) for number in range(16)]
    assert colors[0] == color
    assert len(set(colors)) == 16
    assert all(max(c) - min(c) > 0.3 for c in colors[1:])


def test_moving_things_keep_their_colors(metadata: Metadata) -> None:
    """Two discs and a square, listed in another order in each frame; one is new in frame 4."""
    rng = np.random.default_rng(0)
    tracker = Tracker()
    colors = {}
    for frame in range(12):
        things = {
            "right": (3, square(5 * frame, 0)),
            "left": (3, square(100 - 5 * frame, 35)),
            "square": (4, square(4 * frame, 22, 11)),
        }
        if frame >= 4:
            things["new"] = (3, square(100, 0, 12))
        names = list(rng.permutation(list(things)))
        predictions = panoptic([things[name] for name in names])
        found = find_regions(predictions, metadata, tracker=tracker)["segments_info"]
        for name, region in zip(names, found[1:], strict=True):
            assert colors.setdefault(name, region.color) == region.color, (name, frame)
    assert len(set(colors.values())) == 4


def test_names_and_colors_without_a_data_set() -> None:
    cfg = get_mask_former_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 80  # more than Detectron2 has colours
    cfg.DATASETS.TEST = ()
    metadata = class_metadata(cfg)
    assert metadata.stuff_classes[79] == metadata.thing_classes[79] == "class 79"
    assert len(metadata.stuff_colors) == len(metadata.thing_colors) == 80


def test_names_and_colors_of_the_data_set() -> None:
    cfg = get_mask_former_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 7
    cfg.DATASETS.TEST = ("shapes_panoptic_val",)
    known = MetadataCatalog.get("shapes_panoptic_val")
    metadata = class_metadata(cfg)
    assert metadata.stuff_classes == known.stuff_classes
    assert metadata.thing_colors == known.thing_colors
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 8
    with pytest.raises(InputError, match=r"has 7 classes.* is 8"):
        class_metadata(cfg)
