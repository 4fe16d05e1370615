"""Saved results, read back by other means, equal the prediction."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as rle_tools

from mask_former.d2.data.reading import rgb_to_id
from mask_former.d2.visualization.regions import find_regions
from mask_former.d2.visualization.saving import SAVERS, SUFFIXES

SIZE = (30, 40)


@pytest.fixture
def metadata() -> Metadata:
    """Of the data set shapes."""
    return MetadataCatalog.get("shapes_panoptic_val")


def save(found: dict, folder: Path, num_classes: int = 7) -> dict[str, Path]:
    """The file of each kind."""
    paths = {kind: folder / f"picture{suffix}" for kind, suffix in SUFFIXES.items()}
    for kind, path in paths.items():
        SAVERS[kind](path, found, SIZE, num_classes)
    return paths


def decoded(entry: dict) -> np.ndarray:
    return rle_tools.decode(entry["segmentation"]).astype(bool)


def plain(path: Path) -> dict:
    """The JSON table of an RLE file, without the masks."""
    table = json.loads(path.read_text())
    for entries in table.values():
        if isinstance(entries, list):
            for entry in entries:
                del entry["segmentation"]
    return table


def semantic_scores(num_classes: int) -> torch.Tensor:
    """Random labels with all classes among them, as scores of 0 and 1; void above."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, SIZE, generator=generator)
    labels.view(-1)[:num_classes] = torch.arange(num_classes)
    scores = torch.nn.functional.one_hot(labels, num_classes).permute(2, 0, 1).float()
    scores[:, 28:] = 0.0
    return scores


def many_classes(num_classes: int) -> Metadata:
    names = [f"class {i}" for i in range(num_classes)]
    colors = [[i % 251, i // 251, 7] for i in range(num_classes)]
    return Metadata(stuff_classes=names, stuff_colors=colors)


@pytest.mark.parametrize(
    ("num_classes", "void", "dtype"), [(7, 255, "uint8"), (255, 255, "uint8"), (256, 65535, None)]
)
def test_classes(
    tmp_path: Path,
    num_classes: int,
    void: int,
    dtype: str | None,
) -> None:
    scores = semantic_scores(num_classes)
    known = many_classes(num_classes)
    paths = save(find_regions({"sem_seg": scores}, known, 0.5), tmp_path, num_classes)
    expected = scores.argmax(dim=0).numpy()
    expected[28:] = void
    label = Image.open(paths["label"])
    assert label.mode == ("L" if dtype else "I;16")
    np.testing.assert_array_equal(np.asarray(label), expected)
    colors = np.zeros((void + 1, 3), int)
    colors[:num_classes] = known.stuff_colors
    picture = Image.open(paths["color"])
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), colors[expected])
    if dtype:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), expected)
    table = json.loads(paths["rle"].read_text())
    assert (table["height"], table["width"]) == SIZE
    assert [entry["category_id"] for entry in table["classes"]] == list(range(num_classes))
    for entry in table["classes"]:
        mask = expected == entry["category_id"]
        np.testing.assert_array_equal(decoded(entry), mask)
        assert (entry["area"], entry["category"]) == (mask.sum(), f"class {entry['category_id']}")
        assert "score" not in entry
    assert plain(paths["rle"]) == json.loads(paths["json"].read_text())


def test_segments(metadata: Metadata, tmp_path: Path) -> None:
    """Ids as large as other models of Detectron2 give them, that need all three channels."""
    ids = torch.zeros(SIZE, dtype=torch.int32)
    ids[2:10, 3:20], ids[12:20, 5:9], ids[22:, 30:] = 300, 70000, 5
    segments = [
        {"id": 300, "category_id": 3, "isthing": True, "score": 0.1 + 0.2, "area": 136},
        {"id": 70000, "category_id": 3, "isthing": True, "score": 0.5, "area": 32},
        {"id": 5, "category_id": 1, "isthing": False, "score": 0.75, "area": 80},
    ]
    predictions = {"panoptic_seg": (ids, segments), "sem_seg": torch.zeros(7, *SIZE)}
    found = find_regions(predictions, metadata)
    paths = save(found, tmp_path)
    label = Image.open(paths["label"])
    assert label.mode == "RGB"
    np.testing.assert_array_equal(rgb_to_id(np.asarray(label)), ids.numpy())
    table = json.loads(paths["rle"].read_text())
    boxes = [[3, 2, 17, 8], [5, 12, 4, 8], [30, 22, 10, 8]]
    names = ["disc", "disc", "grass"]
    for segment, entry, bbox, name in zip(
        segments, table["segments_info"], boxes, names, strict=True
    ):
        np.testing.assert_array_equal(decoded(entry), ids.numpy() == segment["id"])
        del entry["segmentation"]
        assert entry == {**segment, "bbox": bbox, "category": name}
    assert plain(paths["rle"]) == json.loads(paths["json"].read_text())
    picture = np.asarray(Image.open(paths["color"]))
    assert picture[25, 35].tolist() == metadata.stuff_colors[1]
    assert picture[5, 5].tolist() == metadata.thing_colors[3]
    assert picture[15, 6].tolist() == [round(255 * v) for v in found["segments_info"][1].color]
    assert picture[15, 6].tolist() != picture[5, 5].tolist()
    assert (picture[ids.numpy() == 0] == 0).all()


def test_palette_of_few_segments(metadata: Metadata, tmp_path: Path) -> None:
    ids = torch.zeros(SIZE, dtype=torch.int32)
    ids[5:] = 1
    segments = [{"id": 1, "category_id": 2, "isthing": False}]
    found = find_regions({"panoptic_seg": (ids, segments)}, metadata)
    picture = Image.open(save(found, tmp_path)["color"])
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), ids.numpy())
    assert picture.convert("RGB").getpixel((0, 29)) == tuple(metadata.stuff_colors[2])


def instances() -> Instances:
    """Two that overlap, the better one first."""
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 5:15, 5:15] = True
    masks[1, 10:20, 10:30] = True
    return Instances(
        SIZE,
        pred_masks=masks,
        pred_boxes=Boxes(torch.tensor([[5.0, 5, 15, 15], [10, 10, 30, 20]])),
        scores=torch.tensor([0.9, 1 / 3]),
        pred_classes=torch.tensor([3, 6]),
    )


def test_instances(metadata: Metadata, tmp_path: Path) -> None:
    given = instances()
    found = find_regions({"instances": given}, metadata)
    paths = save(found, tmp_path)
    table = json.loads(paths["rle"].read_text())["instances"]
    masks = np.stack([decoded(entry) for entry in table])
    np.testing.assert_array_equal(masks, given.pred_masks.numpy())
    boxes = torch.tensor([entry["bbox"] for entry in table])
    boxes[:, 2:] += boxes[:, :2]
    assert torch.equal(boxes, given.pred_boxes.tensor)
    assert torch.equal(torch.tensor([entry["score"] for entry in table]), given.scores)
    assert [entry["category_id"] for entry in table] == given.pred_classes.tolist()
    assert [entry["category"] for entry in table] == ["disc", "star"]
    assert [entry["area"] for entry in table] == [100, 200]
    assert plain(paths["rle"]) == json.loads(paths["json"].read_text())
    expected = np.where(masks[0], 1, np.where(masks[1], 2, 0))  # the better one is seen
    np.testing.assert_array_equal(rgb_to_id(np.asarray(Image.open(paths["label"]))), expected)
    np.testing.assert_array_equal(np.asarray(Image.open(paths["color"])), expected)


def test_classes_and_instances(metadata: Metadata, tmp_path: Path) -> None:
    scores = semantic_scores(7)
    found = find_regions({"instances": instances(), "sem_seg": scores}, metadata)
    paths = save(found, tmp_path)
    label = np.asarray(Image.open(paths["label"]))
    np.testing.assert_array_equal(label, scores.argmax(dim=0).numpy())
    table = json.loads(paths["json"].read_text())
    assert len(table["classes"]) == 7
    assert len(table["instances"]) == 2


@pytest.mark.parametrize("kind", ["classes", "segments_info", "instances"])
def test_nothing_found(tmp_path: Path, kind: str) -> None:
    paths = save({kind: []}, tmp_path)
    label = np.asarray(Image.open(paths["label"]))
    assert (label == (255 if kind == "classes" else 0)).all()
    assert label.shape[:2] == SIZE
    assert not np.asarray(Image.open(paths["color"]).convert("RGB")).any()
    assert json.loads(paths["json"].read_text()) == {"height": 30, "width": 40, kind: []}
