"""Annotations that supervision and Datumaro read, where these are; else what is said."""

import json
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mask_former.d2.describing.gathering import Gathering
from mask_former.d2.describing.recognition import Recognized, recognize
from mask_former.d2.errors import InputError

needs_datumaro = pytest.mark.skipif(
    not (os.environ.get("MASK_FORMER_DATUM") or shutil.which("datum")),
    reason="MASK_FORMER_DATUM names no Datumaro",
)
HALF = [[0, 0], [24, 0], [24, 32], [0, 32]]


def polygon(label: str, points: list, **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": "polygon", **more}


def labelme(folder: Path, name: str, shapes: list, path: str | None = None) -> None:
    file = folder / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"shapes": shapes, "imagePath": path or f"{file.stem}.jpg", "imageData": None}
    file.write_text(json.dumps({**content, "imageHeight": 32, "imageWidth": 48}))


def masks(found: Recognized, split: str) -> dict[tuple[str, str, int], np.ndarray]:
    """Masks by picture, class and place among the picture's."""
    coco = COCO(found.content["splits"][split]["json"])
    masks = {}
    for image in coco.imgs.values():
        for i, entry in enumerate(coco.imgToAnns[image["id"]]):
            assert entry["iscrowd"] == 0
            mask = coco.annToMask(entry)
            assert entry["area"] == mask.sum()
            columns, rows = (np.flatnonzero(mask.any(axis)) for axis in (0, 1))
            box = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert entry["bbox"] == box
            name = coco.cats[entry["category_id"]]["name"]
            masks[image["file_name"], name, i] = mask
    return masks


class TestLabelMe:
    def test_polygons(self, folder, output, write):
        pytest.importorskip("supervision")
        write("train/a.jpg", "val/b.PNG")
        box = polygon("sign", [[30, 4], [40, 20]], shape_type="rectangle")
        group = [polygon("bus", [[x, 0], [x + 4, 0], [x + 4, 9]], group_id=1) for x in (0, 20)]
        others = [polygon("car", HALF, shape_type="circle"), polygon("__ignore__", HALF)]
        labelme(folder, "train/a", [polygon("car", HALF), box, *group, *others])
        labelme(folder, "val/b", [polygon("car", HALF)], "..\\val\\b.jpg")
        found = recognize(str(folder), str(output))
        assert [entry["name"] for entry in found.content["classes"]] == ["car", "sign", "bus"]
        trained = masks(found, "train")
        assert list(trained) == [
            ("train/a.jpg", n, i) for i, n in enumerate(["car", "sign", "bus"])
        ]
        car, sign, bus = trained.values()
        # LabelMe's own drawing has the outline inside, too.
        assert car[:, :25].all()
        assert not car[:, 25:].any()
        assert sign[4:21, 30:41].all()
        assert sign.sum() == 17 * 11
        assert bus[0, [0, 4, 20, 24]].all()
        assert not bus[0, 6:20].any()
        assert [path for path, _, _ in masks(found, "val")] == ["val/b.PNG"]
        assert {note for note in found.notes if note[0].isdigit()} == {
            "1 rectangles are taken as masks",
            "1 shapes of the type circle are left out",
            "1 shapes called __ignore__ are left out",
        }

    def test_pictures_that_lie_side_by_side_are_no_label_maps(self, folder, output, write):
        pytest.importorskip("supervision")
        for i in range(5):
            write(f"frame_{i}.png")
            labelme(folder, f"frame_{i}", [polygon("car", HALF)], f"frame_{i}.png")
        found = recognize(str(folder), str(output))
        assert {split: len(masks(found, split)) for split in ("train", "val")} == {
            "train": 4,
            "val": 1,
        }

    def test_pictures_of_no_split(self, folder, output, write):
        pytest.importorskip("supervision")
        write("train/a.jpg", "val/b.jpg", "c.jpg")
        for name in ("train/a", "val/b", "c"):
            labelme(folder, name, [polygon("car", HALF)])
        notes = recognize(str(folder), str(output)).notes
        assert "1 pictures are in no folder of a split: not used, in the split all" in notes

    def test_a_picture_as_it_is_displayed(self, folder, output):
        pytest.importorskip("supervision")
        exif = Image.Exif()
        exif[0x112] = 6
        for name in "ab":  # stored as 32 x 48 pixels
            stored = np.full((48, 32, 3), ord(name), np.uint8)
            Image.fromarray(stored).save(folder / f"{name}.jpg", exif=exif)
            content = {"shapes": [polygon("car", HALF)], "imagePath": f"{name}.jpg"}
            (folder / f"{name}.json").write_text(json.dumps(content))
        (mask,) = masks(recognize(str(folder), str(output)), "train").values()
        assert mask.shape == (32, 48)

    @pytest.mark.parametrize(
        ("shape", "sentence"),
        [
            (polygon("car", HALF[:2]), r"supervision cannot read .*a.json \(.*2 point.*mend"),
            (polygon("car", HALF[:2], shape_type="rectangle"), r"a.json .* rectangles and no poly"),
            (
                polygon("car", HALF, shape_type="line"),
                r"no polygons or masks; 1 shapes of the type",
            ),
        ],
    )
    def test_what_is_refused(self, folder, output, write, shape, sentence):
        pytest.importorskip("supervision")
        write("a.jpg")
        labelme(folder, "a", [shape])
        with pytest.raises(InputError, match=sentence):
            recognize(str(folder), str(output))

    def test_without_supervision(self, folder, output, write, monkeypatch):
        monkeypatch.setitem(sys.modules, "supervision", None)
        for name in [n for n in sys.modules if n.startswith("supervision.")]:
            monkeypatch.delitem(sys.modules, name)
        write("a.jpg")
        labelme(folder, "a", [polygon("car", HALF)])
        sentence = r"a.json is LabelMe's JSON, which the package supervision reads \(.*\): pip inst"
        with pytest.raises(InputError, match=sentence):
            recognize(str(folder), str(output))


def test_voc_polygons(folder, output, write):
    pytest.importorskip("supervision")
    write("train/a.jpg", "valid/b.jpg")
    points = "".join(
        f"<x{i}>{x + 1}</x{i}><y{i}>{y + 1}</y{i}>" for i, (x, y) in enumerate(HALF, 1)
    )
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    shapes = f"<object><name>car</name>{box}<polygon>{points}</polygon></object>"
    shapes += f"<object><name>bus</name>{box}</object>"
    for split, name in (("train", "a"), ("valid", "b")):
        text = f"<annotation><filename>{name}.jpg</filename>{shapes}</annotation>"
        (folder / split / f"{name}.xml").write_text(text)
    found = recognize(str(folder), str(output))
    assert list(masks(found, "train")) == [("train/a.jpg", "car", 0)]
    assert list(masks(found, "val")) == [("valid/b.jpg", "car", 0)]
    assert "2 objects without a mask are left out" in found.notes


def cvat(folder: Path, content: str, meta: str = "task", more: str = "") -> None:
    labels = "".join(f"<label><name>{n}</name><attributes/></label>" for n in ("car", "sky"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.xml").write_text(
        f"<annotations><version>1.1</version><meta><{meta}><id>1</id><labels>{labels}</labels>"
        f"{more}</{meta}></meta>{content}</annotations>"
    )


def cvat_image(number: int, name: str, shapes: str, more: str = "") -> str:
    return f'<image id="{number}" name="{name}" width="48" height="32" {more}>{shapes}</image>'


POLYGON = '<polygon label="car" occluded="0" points="0,0;24,0;24,32;0,32" z_order="0"/>'
MASK = '<mask label="sky" occluded="0" rle="2, 3, 2, 3" left="30" top="4" width="5" height="2"/>'
BOX = '<box label="car" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9"/>'
ELLIPSE = '<ellipse label="car" occluded="0" cx="9" cy="9" rx="2" ry="2"/>'


@needs_datumaro
class TestDatumaro:
    @pytest.mark.parametrize("meta", ["task", "job"])
    @pytest.mark.parametrize("place", ["images", "."])
    def test_cvat(self, folder, output, write, meta, place):
        write(f"{place}/a.jpg", f"{place}/b.jpg")
        images = [
            cvat_image(i, f"{n}.jpg", POLYGON + MASK + BOX + ELLIPSE) for i, n in enumerate("ab")
        ]
        cvat(folder, "".join(images), meta)
        found = recognize(str(folder), str(output))
        ((car, sky),) = (masks(found, split).values() for split in ("train",))
        assert car[:, :24].all()
        assert not car[:, 24:].any()
        assert sky[4:6, 32:35].all()
        assert sky.sum() == 6
        assert len(masks(found, "val")) == 2
        assert {note for note in found.notes if note[0].isdigit()} == {
            "2 shapes of the type ellipse are left out",
            "2 objects without a mask are left out",
        }

    def test_project_of_cvat(self, folder, output, write):
        subsets = ("Train", "Validation")
        write(*(f"images/{subset}/0001.jpg" for subset in subsets))
        images = [
            cvat_image(i, "0001.jpg", POLYGON, f'subset="{subset}"')
            for i, subset in enumerate(subsets)
        ]
        tasks = "".join(f"<task><subset>{subset}</subset></task>" for subset in subsets * 2)
        cvat(folder, "".join(images), "project", f"<tasks>{tasks}</tasks>")
        found = recognize(str(folder), str(output))
        assert list(masks(found, "train")) == [("images/Train/0001.jpg", "car", 0)]
        assert list(masks(found, "val")) == [("images/Validation/0001.jpg", "car", 0)]

    def test_tasks_of_cvat_in_folders(self, folder, output, write):
        for split in ("train", "val"):
            write(f"{split}/images/a.jpg")
            cvat(folder / split, cvat_image(0, "a.jpg", POLYGON))
        found = recognize(str(folder), str(output))
        assert list(masks(found, "val")) == [("val/images/a.jpg", "car", 0)]
        named = recognize(str(folder), str(output), format="cvat")
        assert named.content == found.content

    def test_video_of_cvat(self, folder, output, write):
        write(*(f"images/frame_{i:06d}.PNG" for i in range(3)))
        shapes = "".join(
            f'<polygon frame="{i}" keyframe="1" outside="{i // 2}" points="0,0;24,0;24,32;0,32"/>'
            for i in range(3)
        )
        size = "<original_size><width>48</width><height>32</height></original_size>"
        cvat(folder, f'<track id="0" label="car">{shapes}</track>', more=size)
        found = recognize(str(folder), str(output))
        both = {**masks(found, "train"), **masks(found, "val")}
        assert sorted(path for path, _, _ in both) == [
            "images/frame_000000.PNG",
            "images/frame_000001.PNG",
        ]

    def test_xml_of_labelme(self, folder, output, write):
        write("Images/street/a.jpg", "Images/street/b.jpg")
        points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in HALF)
        for name in "ab":
            file = folder / f"Annotations/street/{name}.xml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(
                f"<annotation><filename>{name}.jpg</filename><folder>street</folder><object>"
                "<name>car</name><deleted>0</deleted><occluded>no</occluded><attributes/><parts>"
                "<hasparts/><ispartof/></parts><id>0</id><polygon><username>me</username>"
                f"{points}</polygon></object><imagesize><nrows>32</nrows><ncols>48</ncols>"
                "</imagesize></annotation>"
            )
        found = recognize(str(folder), str(output))
        assert len(masks(found, "train")) == len(masks(found, "val")) == 1

    def test_json_of_datumaro(self, folder, output, write):
        write("images/train/a.jpg", "images/val/b.jpg")
        labels = [{"name": name, "parent": "", "attributes": []} for name in ("car", "sky")]
        shape = {"id": 0, "type": "polygon", "attributes": {}, "group": 0, "label_id": 1}
        shape.update(points=[0, 0, 24, 0, 24, 32, 0, 32], z_order=0)
        for split, name in (("train", "a"), ("val", "b")):
            image = {"path": f"{name}.jpg", "size": [32, 48]}
            content = {
                "infos": {},
                "categories": {"label": {"labels": labels, "attributes": []}},
                "items": [{"id": name, "annotations": [shape], "image": image}],
            }
            file = folder / f"annotations/{split}.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(content))
        found = recognize(str(folder), str(output))
        assert list(masks(found, "train")) == [("images/train/a.jpg", "sky", 0)]
        assert [entry["name"] for entry in found.content["classes"]] == ["car", "sky"]

    def test_a_format_by_its_name(self, folder, output, write):
        write("JPEGImages/a.jpg", "JPEGImages/b.jpg")
        palette = [0] * 21 + [128] * 3 + [0] * 741 + [224, 224, 192]  # VOC's car and border
        for name in ("SegmentationClass", "SegmentationObject"):
            values = [7] * 24 + [255] * 2 + [0] * 22
            write(f"{name}/a.png", f"{name}/b.png", values=values, palette=palette)
        for split, name in (("train", "a"), ("val", "b")):
            file = folder / f"ImageSets/Segmentation/{split}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(name)
        found = recognize(str(folder), str(output), format="voc_segmentation")
        assert len(masks(found, "train")) == len(masks(found, "val")) == 1
        with pytest.raises(
            InputError, match=r"datumaro cannot read .* as the format vok \(.*'vok'"
        ):
            recognize(str(folder), str(output), format="vok")

    def test_a_broken_file(self, folder, output, write):
        write("a.jpg")
        cvat(folder, cvat_image(0, "a.jpg", POLYGON.replace("0,0;24", "0;24")))
        with pytest.raises(InputError, match=r"datumaro cannot read .* as CVAT's XML \(.*Error: "):
            recognize(str(folder), str(output))


class TestWithoutDatumaro:
    @pytest.fixture(autouse=True)
    def cvat_folder(self, folder, write, monkeypatch, tmp_path):
        monkeypatch.delenv("MASK_FORMER_DATUM", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        write("a.jpg")
        cvat(folder, cvat_image(0, "a.jpg", POLYGON))

    def test_it_is_named(self, folder, output, monkeypatch):
        sentence = r"xml is CVAT's XML, .*datumaro reads \(it is not found\): python -m venv DIR &&"
        with pytest.raises(InputError, match=sentence):
            recognize(str(folder), str(output))
        monkeypatch.setenv("MASK_FORMER_DATUM", "/nowhere/datum")
        with pytest.raises(InputError, match=r"MASK_FORMER_DATUM is '/nowhere/datum', which is no"):
            recognize(str(folder), str(output))

    def test_a_program_that_fails(self, folder, output, tmp_path):
        program = tmp_path / "datum"
        program.write_text("#!/bin/sh\necho first >&2\necho 'the last line' >&2\nexit 1\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        with pytest.raises(InputError, match=r"as CVAT's XML \(the last line\); mend the files"):
            recognize(str(folder), str(output))


def test_pictures_by_name(folder, write):
    write("train/a.jpg", "val/a.jpg", "val/sub/b.PNG", "one/c.jpg", "two/c.jpg")
    gathering = Gathering(str(folder))
    assert gathering.find("a.jpg", "labels/val/x.json") == "val/a.jpg"
    assert gathering.find("train\\a.jpg", "x.json") == "train/a.jpg"
    assert gathering.find("B.jpg", "x.json") == "val/sub/b.PNG"
    assert gathering.find("c.jpg", "two/x.json") == "two/c.jpg"
    with pytest.raises(InputError, match=r"x.json names c.jpg, which may be one/c.jpg or two/c"):
        gathering.find("c.jpg", "x.json")
    with pytest.raises(InputError, match=r"x.json names d.jpg, which lies nowhere in .*my data"):
        gathering.find("d.jpg", "x.json")
