"""What is wrong with a data set is told, with the files and the remedy."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from mask_former.d2.data.counting import ClassCount, Spread
from tests.d2.data.surveys import (
    CAR,
    INSTANCES,
    NOISE,
    PANOPTIC,
    PARTS,
    ROAD,
    SPLITS,
    blocks,
    kinds,
    square,
    the,
    write_instances,
    write_pairs,
    write_panoptic,
)


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


def test_label_maps_that_were_smoothed(save, surveyed):
    """One thin class between two others may be so; several are made by interpolation."""
    thin = blocks(0, 13)
    thin[:, 48] = 1
    write_pairs(save, {"train/a": thin, "val/b": blocks(0, 1, 13)})
    assert "smoothed" not in kinds(surveyed())
    small = Image.fromarray(blocks(0, 250, 0, size=(32, 48)))
    for name in ("train/a", "val/b"):
        save(f"labels/{name}.png", small.resize((96, 64), Image.Resampling.BILINEAR))
    found = surveyed(classes=[f"c{value}" for value in range(251)], ignore=None)
    finding = the(found, "smoothed")
    assert (finding.is_error, finding.number) == (True, 2)
    assert finding.examples == ("c188: 100% of its pixels", "c63: 100% of its pixels")
    assert "smoothed" not in kinds(surveyed(classes=["c0", "c250"], background="ignore"))


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


@pytest.mark.parametrize(
    ("table", "key", "value", "sentence"),
    [
        ("images", "height", None, r"entry 0 of images in .* has the height None and the width"),
        ("annotations", "id", None, r"annotation 0 \(id None\) of .* has the id None; mend it"),
        ("annotations", "category_id", 9.0, r"annotation 0 .* has the category_id 9\.0; mend it"),
        ("annotations", "area", "1", r"annotation 0 .* has the area '1'; give a number"),
    ],
)
def test_what_training_would_refuse_in_a_json(
    save, surveyed, tmp_path, table, key, value, sentence
):
    write_instances(save, tmp_path, square(0, 32))
    content = json.loads((tmp_path / "inst.json").read_text())
    content[table][0][key] = value
    if value is None:
        del content[table][0][key]
        sentence = sentence.replace("the id None", "no id")
    (tmp_path / "inst.json").write_text(json.dumps(content))
    finding = the(surveyed(**INSTANCES), "split")
    assert finding.is_error
    assert re.search(sentence, finding.examples[0])


def test_nothing_to_learn(pairs, save, surveyed, tmp_path):
    write_instances(save, tmp_path, square(0, 32), crowd=1)
    assert the(surveyed(**INSTANCES), "nothing").examples == ("s_train: 1 pictures",)
    for name in "ab":
        save(f"labels/train/{name}.png", blocks(255))
    assert the(surveyed(), "nothing").is_error
