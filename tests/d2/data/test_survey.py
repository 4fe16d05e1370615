"""A survey counts right, tells what is wrong, and goes on where it was stopped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import ExifTags, Image

from mask_former.d2.data import examination
from mask_former.d2.data import survey as survey_module
from mask_former.d2.data.counting import ClassCount, SegmentsPerPicture, Spread
from mask_former.d2.data.description import read_description
from mask_former.d2.data.findings import Finding
from mask_former.d2.data.survey import MEMORY, Survey, survey
from mask_former.d2.errors import InputError

Surveyed = Callable[..., Survey]
CLASSES = ["road", "sky", {"name": "car", "values": [13, 14], "thing": True}]
SPLITS = {
    split: {"images": f"images/{split}", "labels": f"labels/{split}"} for split in ("train", "val")
}
NOISE = np.random.RandomState(0).randint(0, 256, (4, 64, 96, 3), dtype=np.uint8)


@pytest.fixture
def surveyed(tmp_path: Path) -> Surveyed:
    """Writes a description beside the files and surveys what it describes."""

    def run(workers: int | None = None, **changes: Any) -> Survey:
        content = {"name": "s", "classes": CLASSES, "ignore": [255], "splits": SPLITS, **changes}
        content = {key: value for key, value in content.items() if value is not None}
        (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        description = read_description(str(tmp_path / "dataset.yaml"))
        return survey(description, str(tmp_path / "out"), workers)

    return run


def blocks(*values: int, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """A label map of columns that are equally wide."""
    return np.repeat(np.array(values, np.uint8), size[1] // len(values))[None].repeat(size[0], 0)


def write_pairs(save, labels: dict[str, np.ndarray]) -> None:
    for number, (name, values) in enumerate(labels.items()):
        picture = NOISE[number][: values.shape[0], : values.shape[1]]
        save(f"images/{name}.png", picture)
        save(f"labels/{name}.png", values)


@pytest.fixture
def pairs(save) -> None:
    """Three good pairs; a column of three has 64 x 32 = 2048 pixels."""
    write_pairs(
        save,
        {
            "train/a": blocks(0, 1, 13),
            "train/b": blocks(0, 14, 255),
            "val/c": blocks(13, 1, 0),
        },
    )


def kinds(found: Survey) -> dict[str, int]:
    return {finding.kind: finding.number for finding in found.findings}


def the(found: Survey, kind: str) -> Finding:
    (finding,) = [finding for finding in found.findings if finding.kind == kind]
    return finding


def test_numbers_of_label_maps(pairs, surveyed):
    found = surveyed()

    train, val = found.splits
    assert (train.name, train.pictures, train.readable, train.labelled) == ("s_train", 2, 2, 2)
    assert train.classes == (
        ClassCount(4096, 2, 2),
        ClassCount(2048, 1, 1),
        ClassCount(4096, 2, 2),
    )
    assert train.unlabelled == pytest.approx(1 / 6)
    assert train.segments == SegmentsPerPicture(2.5, 3, 3)
    assert (train.heights, train.widths) == (Spread(64, 64, 64), Spread(96, 96, 96))
    assert train.most_common_size == (64, 96)
    assert train.kinds == {"PNG, RGB (3 x 8 bits)": 2}
    assert val.classes == (ClassCount(2048, 1, 1),) * 3
    assert val.unlabelled == 0
    assert found.findings == ()
    assert not found.has_errors
    assert found.training == train
    # 4096 pixels of sky, 6144 of road and of car; then again those that are left.
    names = [(Path(s.sample["file_name"]).stem, s.rarest) for s in found.shown]
    assert names == [("a", 1), ("b", 0), ("c", 2)]


def test_values_change_without_another_reading(pairs, surveyed, monkeypatch):
    surveyed()
    monkeypatch.setattr(survey_module, "examine", lambda work: pytest.fail("read again"))

    found = surveyed(classes=["road", {"name": "rest", "values": [1, 13, 14]}])

    assert found.splits[0].classes == (ClassCount(4096, 2, 2), ClassCount(6144, 2, 2))
    assert len(surveyed(classes=["road"], background="class").splits[0].classes) == 2


def test_two_workers_find_the_same(pairs, surveyed, tmp_path):
    found = surveyed(workers=2)

    (tmp_path / "out" / MEMORY).unlink()
    assert surveyed(workers=1) == found


@pytest.mark.parametrize("few", [0, 10**8])
def test_little_data_start_no_processes(pairs, surveyed, monkeypatch, few):
    used = []

    def alone(prepare, items, workers, title):
        used.append(workers)
        return map(prepare, items)

    monkeypatch.setattr(survey_module, "_FEW", few)
    monkeypatch.setattr(survey_module, "as_they_come", alone)
    monkeypatch.setattr("os.cpu_count", lambda: 5)

    surveyed()

    assert used == [1 if few else 5]


def test_the_order_of_splits_does_not_matter(pairs, save, surveyed):
    save("images/val/bare.png", NOISE[0])
    found = surveyed()
    turned = surveyed(splits=dict(reversed(SPLITS.items())))

    assert sorted(turned.splits) == sorted(found.splits)
    assert turned.findings == found.findings != ()
    assert turned.training == found.training
    assert turned.shown == found.shown


def test_a_survey_that_was_killed_goes_on(pairs, surveyed, tmp_path, monkeypatch):
    expected = surveyed()
    memory = tmp_path / "out" / MEMORY
    first, second, third = memory.read_bytes().splitlines(keepends=True)
    memory.write_bytes(first + b'{"key": {"key": 1}\n' + second[:20])  # killed while it wrote
    read = []
    monkeypatch.setattr(
        survey_module, "examine", lambda work: read.append(work) or examination.examine(work)
    )

    assert surveyed() == expected

    assert [Path(work.sample["file_name"]).stem for work in read] == ["b", "c"]
    assert memory.read_bytes().splitlines(keepends=True)[2:] == [second, third]
    assert surveyed() == expected
    assert len(read) == 2


def test_a_file_that_has_changed_is_read_again(pairs, save, surveyed):
    surveyed()
    save("labels/val/c.png", blocks(0, 1, 77))

    assert the(surveyed(), "unlisted").examples[0].endswith("labels/val/c.png: 77")


def test_a_folder_that_cannot_be_made(pairs, surveyed, tmp_path):
    (tmp_path / "out").write_text("a file")

    with pytest.raises(InputError, match=r"out cannot be made \(File exists\); give another"):
        surveyed()


def test_files_that_cannot_be_read(pairs, save, surveyed, tmp_path):
    for name in ("images/train/a.png", "labels/val/c.png"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-300])
    save("images/train/b.png", NOISE[0])
    (tmp_path / "images/train/b.png").rename(tmp_path / "images/train/b.tif")
    save("images/train/b.tif", NOISE[0, :, :, 0].astype(np.float32))

    found = surveyed()

    assert {"picture", "labels", "mode"} <= kinds(found).keys()
    assert "images/train/a.png cannot be read" in the(found, "picture").examples[0]
    assert "labels/val/c.png cannot be read" in the(found, "labels").examples[0]
    assert "b.tif has mode F of Pillow" in the(found, "mode").examples[0]
    assert found.has_errors
    assert (found.splits[0].readable, found.splits[0].labelled, found.splits[1].labelled) == (
        0,
        2,
        0,
    )


def test_a_label_map_of_three_channels(pairs, save, surveyed):
    save("labels/val/c.png", NOISE[0])

    assert "has 3 channels (RGB, RGBA or alike)" in the(surveyed(), "labels").examples[0]


def test_unlisted_values(pairs, save, surveyed):
    save("labels/val/c.png", blocks(0, 7, 8))
    found = surveyed()
    finding = the(found, "unlisted")
    assert (finding.number, finding.is_error) == (1, True)
    assert finding.examples[0].endswith("labels/val/c.png: 7, 8")
    assert "`background: ignore`" in finding.remedy
    assert found.splits[1].classes[0].pixels == 2048  # what is listed is counted all the same

    assert "unlisted" not in kinds(surveyed(background="ignore"))
    assert the(surveyed(classes=["road", "sky", "car"]), "unlisted").number == 3


def test_colours(save, surveyed):
    colors = np.zeros((64, 96, 3), np.uint8)
    colors[:, 48:] = (0, 0, 142)
    colors[:, 90:] = (1, 2, 3)
    for split in SPLITS:
        save(f"images/{split}/a.png", NOISE[len(split) % 2])
        save(f"labels/{split}/a.png", colors)
    classes = [{"name": "road", "color": [0, 0, 0]}, {"name": "car", "color": [0, 0, 142]}]

    found = surveyed(classes=classes, encoding="colors", ignore=None)

    assert [c.pixels for c in found.splits[0].classes] == [64 * 48, 64 * 42]
    assert the(found, "unlisted").examples[0].endswith("a.png: [1, 2, 3]")
    save("labels/val/a.png", NOISE[0].repeat(2, 0).repeat(2, 1)[:64, :96])
    noise = np.random.RandomState(1).randint(0, 256, (64, 96, 3), dtype=np.uint8)
    save("labels/train/a.png", noise)
    found = surveyed(classes=classes, encoding="colors", ignore=None)
    assert "has 6142 different values" in the(found, "many_values").examples[0]


def turned(picture: np.ndarray, orientation: int) -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return Image.fromarray(picture), exif


@pytest.mark.parametrize("as_stored", [False, True])
def test_exif_rotation(pairs, save, surveyed, as_stored):
    picture, exif = turned(NOISE[3], 6)
    save("images/val/d.png", picture, exif=exif)
    stored = blocks(0, 1, 13)
    save("labels/val/d.png", stored if as_stored else np.rot90(stored, -1))

    found = surveyed()

    assert kinds(found) == ({"exif": 1} if as_stored else {})
    assert not found.has_errors
    assert found.splits[1].heights == Spread(64, 64, 96)
    assert found.splits[1].classes[0] == ClassCount(4096, 2, 2)


def test_exif_that_size_does_not_tell(pairs, save, surveyed):
    picture, exif = turned(NOISE[3], 3)
    save("images/val/c.png", picture, exif=exif)

    finding = the(surveyed(), "exif_unclear")

    assert not finding.is_error
    assert finding.examples[0].endswith("c.png (EXIF orientation 3)")
    assert surveyed(splits={"test": {"images": "images/val"}}).findings == ()


def test_sizes_that_differ(pairs, save, surveyed):
    save("labels/val/c.png", blocks(0, 1, 13)[:, :90])

    finding = the(surveyed(), "size")

    assert finding.is_error
    assert "labels/val/c.png is 90x64 pixels" in finding.examples[0]
    assert surveyed().shown == tuple(s for s in surveyed().shown if s.split == "s_train")


def test_what_has_no_partner(pairs, save, surveyed):
    save("images/train/lonely.png", NOISE[3])
    save("labels/train/orphan.png", blocks(0, 1))
    save("labels/train/lonely.jpg", blocks(0, 1))
    save("labels/train/lonely.webp", blocks(0, 1))

    found = surveyed()

    assert kinds(found) == {"jpeg": 2, "bare": 1, "orphans": 1}
    assert the(found, "jpeg").is_error
    assert the(found, "bare").examples[0].endswith("images/train/lonely.png")
    assert the(found, "orphans").examples[0].endswith("labels/train/orphan.png")
    assert found.splits[0].pictures == 2


def test_jpeg_by_another_name(pairs, save, surveyed):
    save("labels/train/a.png", blocks(0, 0, 0, 0, 1, 1), format="JPEG", quality=100)

    assert the(surveyed(), "jpeg").examples[0].endswith("labels/train/a.png")


def test_a_split_that_cannot_be_loaded(pairs, surveyed):
    found = surveyed(splits={**SPLITS, "test": {"images": "nowhere"}})

    assert kinds(found) == {"split": 1}
    assert "nowhere (image_root), which does not exist" in the(found, "split").examples[0]
    assert found.splits[2].pictures == 0


def test_the_name_of_a_data_set_does_not_make_a_training_set(pairs, save, surveyed):
    found = surveyed(name="trains", splits=dict(reversed(SPLITS.items())))
    assert found.training.name == "trains_train"
    splits = {"one": SPLITS["val"], "two": SPLITS["train"]}
    assert surveyed(name="trains", splits=splits).training.name == "trains_one"
    assert surveyed(name="train", splits=splits).training.name == "train_one"
    save("labels/val/c.png", blocks(1))
    found = surveyed(name="train")  # of railways
    assert "one_class" not in kinds(found)
    assert "not evaluated there" in the(found, "absent").remedy


def test_a_split_without_labels(pairs, surveyed):
    found = surveyed(splits={**SPLITS, "test": {"images": "images/val"}})

    assert kinds(found) == {"twice": 1}
    assert (found.splits[2].pictures, found.splits[2].labelled) == (1, 0)
    assert (found.splits[2].unlabelled, found.splits[2].segments) == (None, None)


def test_masks_of_0_and_255(save, surveyed):
    write_pairs(save, {"train/a": blocks(0, 255), "val/b": blocks(0, 255)})

    found = surveyed(classes=["road", "thing"])

    assert kinds(found) == {"one_class": 1, "never": 1}
    finding = the(found, "one_class")
    assert finding.is_error
    assert finding.examples == ("s_train: 'road' in 1 label maps",)
    assert "list 255 among the values of a class" in finding.remedy
    assert the(found, "never").examples == ("thing",)


def test_classes_that_a_split_lacks(save, surveyed):
    write_pairs(save, {"train/a": blocks(0, 13), "val/b": blocks(1, 13), "val/c": blocks(255)})

    found = surveyed()

    absent = [finding for finding in found.findings if finding.kind == "absent"]
    assert [(f.what.split()[-1], f.examples) for f in absent] == [
        ("s_train", ("sky",)),
        ("s_val", ("road",)),
    ]
    assert "cannot be learnt" in absent[0].remedy
    assert "not evaluated there" in absent[1].remedy
    assert the(found, "empty").examples[0].endswith("images/val/c.png")
    assert not found.has_errors


def test_identical_pictures_in_two_splits(pairs, save, surveyed):
    save("images/val/c.bmp", NOISE[0])  # the pixels of train/a.png
    (Path(save("images/val/x.png", NOISE[0])).parent / "c.png").unlink()

    finding = the(surveyed(), "twice")

    assert finding.number == 1
    assert finding.examples[0].endswith("images/val/c.bmp (s_val)")
    assert "images/train/a.png (s_train)" in finding.examples[0]


def test_odd_pictures(pairs, save, surveyed, monkeypatch):
    monkeypatch.setattr("mask_former.d2.data.findings._LARGE", 64 * 100)
    write_pairs(save, {"train/small": blocks(0, 1)[:31]})
    save("images/train/large.png", np.concatenate([NOISE[0], NOISE[1]]))
    save("labels/train/large.png", blocks(0, 1, 13).repeat(2, 0))
    save("images/train/flat.png", np.full((64, 96, 3), 9, np.uint8))
    save("labels/train/flat.png", blocks(0, 1, 13))

    found = surveyed()

    assert kinds(found) == {"flat": 1, "small": 1, "large": 1}
    assert the(found, "small").examples[0].endswith("small.png (96x31)")
    assert the(found, "large").examples[0].endswith("large.png (96x128)")


@pytest.mark.parametrize(
    ("picture", "kind"),
    [
        (NOISE[0, :, :, 0], "PNG, L (8 bits)"),
        (NOISE[0, :, :, 0].astype(np.uint16), "PNG, I;16 (16 bits)"),
        (Image.fromarray(NOISE[0]).quantize(8), "PNG, P (palette of 8 bits)"),
        (Image.fromarray(NOISE[0]).convert("RGBA"), "PNG, RGBA (4 x 8 bits)"),
    ],
)
def test_kinds_of_pictures(save, surveyed, picture, kind):
    save("images/train/a.png", picture)

    found = surveyed(splits={"train": {"images": "images/train"}})

    assert found.splits[0].kinds == {kind: 1}
    assert found.shown == ()


PARTS = {"panoptic": "pan", "json": "pan.json", "images": "images"}


def write_panoptic(save, tmp_path: Path, **changes: Any) -> None:
    """One picture: void, a road (two segments where merged), two cars, one of them a crowd."""
    ids = np.zeros((64, 96, 3), np.uint8)
    ids[..., 0] = blocks(0, 1, 2, 3)
    save("pan/x.png", ids)
    save("images/x.png", NOISE[0])
    segments = [
        {"id": 1, "category_id": 7, "iscrowd": 0},
        {"id": 2, "category_id": 9, "iscrowd": 0},
        {"id": 3, "category_id": 9, "iscrowd": 1},
    ]
    content = {
        "images": [{"id": 1, "file_name": "x.png", "width": 96, "height": 64}],
        "annotations": [{"image_id": 1, "file_name": "x.png", "segments_info": segments}],
        "categories": [{"id": 7, "name": "a", "isthing": 0}, {"id": 9, "name": "b", "isthing": 1}],
    }
    (tmp_path / "pan.json").write_text(json.dumps({**content, **changes}))


ROAD = {"name": "road", "id": 7}
CAR = {"name": "car", "id": 9, "thing": True}
PANOPTIC = {"task": "panoptic", "classes": [ROAD, CAR], "ignore": None, "splits": {"train": PARTS}}


def test_numbers_of_panoptic_maps(save, surveyed, tmp_path):
    write_panoptic(save, tmp_path)

    found = surveyed(**PANOPTIC)

    (train,) = found.splits
    assert found.findings == ()
    assert train.classes == (ClassCount(1536, 1, 1), ClassCount(1536, 1, 1))
    assert train.unlabelled == 0.5  # void and the crowd
    assert train.segments == SegmentsPerPicture(2, 2, 2)


def test_findings_of_panoptic_maps(save, surveyed, tmp_path):
    write_panoptic(save, tmp_path)
    save("images/more.png", NOISE[1])
    save("pan/more.png", NOISE[1])

    found = surveyed(**{**PANOPTIC, "classes": [{**CAR, "id": 7}, {**ROAD, "id": 5}]})

    assert kinds(found) == {"category": 1, "things": 1, "bare": 1, "orphans": 1, "never": 1}
    assert the(found, "category").examples[0].endswith("pan.json: category_id 9 in 2 annotations")
    assert (
        the(found, "things")
        .examples[0]
        .endswith("category_id 7 has isthing 0, thing true of the class")
    )
    assert found.splits[0].classes[0].pixels == 1536
    assert "category" not in kinds(
        surveyed(**{**PANOPTIC, "classes": [ROAD], "background": "ignore"})
    )
    stuff = [ROAD, {**CAR, "thing": False}]
    content = json.loads((tmp_path / "pan.json").read_text())
    del content["categories"][1]["isthing"]
    content["annotations"][0]["segments_info"][2]["iscrowd"] = 0
    (tmp_path / "pan.json").write_text(json.dumps(content))
    found = surveyed(**{**PANOPTIC, "classes": stuff})
    assert the(found, "several").examples[0].endswith("pan/x.png (2 of car)")


def test_annotations_that_are_refused(save, surveyed, tmp_path):
    twice = [{"id": 1, "category_id": 7}, {"id": 1, "category_id": 9}]
    entry = {"image_id": 1, "file_name": "x.png", "segments_info": twice}
    write_panoptic(save, tmp_path, annotations=[entry])
    found = surveyed(**PANOPTIC)
    assert "have the ids 1 more than once" in the(found, "annotations").examples[0]
    assert found.has_errors

    path = tmp_path / "pan/x.png"
    path.write_bytes(path.read_bytes()[:-40])
    assert "pan/x.png cannot be read" in the(surveyed(**PANOPTIC), "labels").examples[0]
    (tmp_path / "pan.json").write_text("{")
    assert "pan.json cannot be read" in the(surveyed(**PANOPTIC), "split").examples[0]


def test_panoptic_maps_of_another_size(save, surveyed, tmp_path):
    write_panoptic(save, tmp_path)
    save("images/x.png", NOISE[0][:, :90])
    assert "pan/x.png is 96x64 pixels" in the(surveyed(**PANOPTIC), "size").examples[0]

    picture, exif = turned(NOISE[0], 8)
    save("images/x.png", picture, exif=exif)
    finding = the(surveyed(**PANOPTIC), "exif_stored")
    assert finding.is_error
    assert "pan/x.png is 96x64 pixels" in finding.examples[0]


def test_label_maps_beside_panoptic_maps(save, surveyed, tmp_path):
    write_panoptic(save, tmp_path)
    save("labels/x.png", blocks(7, 9, 3))
    splits = {"train": {**PARTS, "labels": "labels"}}

    finding = the(surveyed(**{**PANOPTIC, "splits": splits}), "labels")

    assert "labels/x.png has values 3 that the description" in finding.examples[0]


def write_instances(save, tmp_path: Path, *segmentations: Any, crowd: int = 0) -> None:
    save("images/x.png", NOISE[0])
    annotations = [
        {
            "id": i,
            "image_id": 1,
            "category_id": 9,
            "iscrowd": crowd if i == len(segmentations) else 0,
            "area": 1,
            "bbox": [0, 0, 1, 1],
            "segmentation": segmentation,
        }
        for i, segmentation in enumerate(segmentations, start=1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "x.png", "width": 96, "height": 64}],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "car"}],
    }
    (tmp_path / "inst.json").write_text(json.dumps(content))


def square(x: int, side: int) -> list[list[int]]:
    return [[x, 0, x + side, 0, x + side, side, x, side]]


INSTANCES = {
    "task": "instance",
    "classes": [CAR],
    "ignore": None,
    "splits": {"train": {"images": "images", "json": "inst.json"}},
}


def test_numbers_of_instances(save, surveyed, tmp_path):
    crowd = {"size": [64, 96], "counts": [64 * 64, 32 * 64]}
    write_instances(save, tmp_path, square(0, 8), square(4, 8), crowd, crowd=1)

    found = surveyed(**INSTANCES)

    (train,) = found.splits
    assert found.findings == ()
    assert train.classes == (ClassCount(128, 1, 2),)
    assert train.unlabelled == pytest.approx(1 - 96 / (64 * 96))  # 32 pixels belong to both
    assert train.segments == SegmentsPerPicture(2, 2, 2)


def test_findings_of_instances(save, surveyed, tmp_path):
    write_instances(save, tmp_path, square(0, 8), [[1, 1, 1, 1, 1, 1]])
    save("images/more.png", NOISE[1])
    assert kinds(surveyed(**INSTANCES)) == {"bare": 1, "no_pixel": 1}

    write_instances(save, tmp_path, [[1, 1, 500, 500, 1, 1]])
    assert "has a polygon from" in the(surveyed(**INSTANCES), "annotations").examples[0]

    save("images/x.png", NOISE[0][:, :90])
    assert "is 90x64 pixels" in the(surveyed(**INSTANCES), "size").examples[0]
    picture, exif = turned(NOISE[0], 6)
    save("images/x.png", picture, exif=exif)
    assert "its annotation says 96x64" in the(surveyed(**INSTANCES), "exif_stored").examples[0]
    (tmp_path / "images/x.png").write_bytes(b"")
    assert "x.png cannot be read" in the(surveyed(**INSTANCES), "picture").examples[0]


def test_a_number_that_is_not_finite(save, surveyed, tmp_path):
    write_instances(save, tmp_path, square(0, 8))
    content = (tmp_path / "inst.json").read_text()
    (tmp_path / "inst.json").write_text(content.replace('"area": 1', '"area": NaN'))
    found = surveyed(**INSTANCES)
    assert "inst.json has NaN in entry 0 of annotations" in the(found, "split").examples[0]


@pytest.mark.parametrize("content", [{}, {"annotations": 5}, {"annotations": ["x"]}, [1]])
def test_a_json_of_another_form(save, surveyed, tmp_path, content):
    write_panoptic(save, tmp_path)
    (tmp_path / "pan.json").write_text(json.dumps(content))
    found = surveyed(**PANOPTIC)
    assert kinds(found)["split"] == 1
    assert str(tmp_path / "pan.json") in the(found, "split").examples[0]
