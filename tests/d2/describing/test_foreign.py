"""Which annotations of other programs are recognised, and which are refused."""

import json
from pathlib import Path

import pytest

from mask_former.d2.describing.foreign import (
    CVAT,
    DATUMARO,
    LABELME,
    LABELME_XML,
    VOC_POLYGONS,
    find_foreign,
)
from mask_former.d2.describing.recognition import recognize
from mask_former.d2.errors import InputError

VOC = "<annotation><object><name>car</name><bndbox><xmin>1</xmin></bndbox>{}</object></annotation>"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.json", {"shapes": [], "imagePath": "a.jpg"}, LABELME),
        ("x/a.json", {"items": [], "categories": {}}, DATUMARO),
        ("annotations.xml", "<annotations><meta/></annotations>", CVAT),
        (
            "a.XML",
            "<annotation><object><polygon><pt/></polygon></object></annotation>",
            LABELME_XML,
        ),
        ("a.xml", VOC.format("<polygon><x1>1</x1></polygon>"), VOC_POLYGONS),
        ("a.json", {"annotations": [], "categories": [], "images": []}, None),
        ("a.json", {"0": "road", "1": "sky"}, None),
        ("a.json", [1, 2], None),
        ("a.xml", "<opencv_storage/>", None),
    ],
)
def test_kinds(folder: Path, name: str, content: object, kind: object):
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    found = find_foreign(str(folder))
    assert (found and found.kind) == kind
    assert found is None or found.file == str(file)


def test_one_polygon_makes_boxes_polygons(folder: Path):
    for i in range(5):
        (folder / f"{i}.xml").write_text(VOC.format(""))
    found = find_foreign(str(folder))
    assert found is not None
    assert found.kind.package is None
    (folder / "4.xml").write_text(VOC.format("<polygon><x1>1</x1></polygon>"))
    found = find_foreign(str(folder))
    assert found is not None
    assert found.kind == VOC_POLYGONS


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("v.json", {"_via_img_metadata": {}}, r"v.json is the VGG .* \(COCO format\)"),
        ("v.json", {"a.jpg9": {"filename": "a.jpg", "regions": []}}, r"v.json is the VGG"),
        ("ds/ann/a.json", {"objects": [], "size": {}, "tags": []}, r"export as COCO or as segm"),
        ("a.xml", VOC.format(""), r"a.xml is Pascal VOC's XML with boxes alone; a model of masks"),
        ("p.json", {"imgHeight": 1, "imgWidth": 1, "objects": []}, r"csCreateTrainIdLabelImgs"),
        ("a.xml", "<annotation>", r"XML .*a.xml cannot be read \(no element found"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', r"a.xml declares entities"),
        ("a.json", "{", r"JSON .*a.json cannot be read"),
    ],
)
def test_what_is_refused(folder, output, write, name, content, sentence):
    write("a.jpg")
    file = folder / name
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        recognize(str(folder), str(output))


def test_masks_in_a_folder_of_their_own_win(folder, output, write):
    write("images/a.png", "images/b.png")
    write("masks/a.png", "masks/b.png", values=[0, 1])
    (folder / "images/a.json").write_text(json.dumps({"shapes": [], "imagePath": "a.png"}))
    (folder / "a.xml").write_text(VOC.format(""))
    (folder / "broken.xml").write_text("<annotation>")
    assert recognize(str(folder), str(output)).content["task"] == "semantic"


def test_full_ade20k_is_no_folder_of_colour_masks(folder, output, write):
    write("images/a.jpg")
    write("images/a_seg.png", values=[[10, 20, 0], [0, 0, 0]])
    file = folder / "images/a.json"
    file.write_text(json.dumps({"annotation": {"filename": "a.jpg", "object": []}}))
    with pytest.raises(InputError, match=r"prepare_ade20k_full_sem_seg.py makes label maps of it"):
        recognize(str(folder), str(output))
