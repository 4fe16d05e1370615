"""JSON files of COCO's formats: what is refused, with the entry, and what may be left out."""

import copy
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mask_former.d2.data import entries, json_files
from mask_former.d2.data.json_files import check_instances, check_panoptic, picture_id
from mask_former.d2.errors import InputError

INSTANCES = {
    "images": [{"id": "000007", "file_name": "a.jpg", "height": 4, "width": 6}],
    "categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": "000007", "category_id": 9, "segmentation": [[0, 0, 2, 0, 2, 2]]},
        {"id": 2, "image_id": "000007", "category_id": 3, "iscrowd": 1, "bbox": [0, 0, 2, 2]},
    ],
}
PANOPTIC = {
    "annotations": [
        {
            "image_id": "000007",
            "file_name": "a.png",
            "segments_info": [{"id": 1, "category_id": 9}, {"id": 2, "category_id": 3}],
        },
        {"image_id": 8, "file_name": "b.png", "segments_info": []},
    ],
    "categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "sky", "isthing": 0}],
}
THINGS, STUFF = {9: 0}, {3: 1}

Write = Callable[[object], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a JSON and gives its path."""

    def written(content: object) -> str:
        path = tmp_path / "data.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return written


def changed(content: dict, place: list, value: object) -> dict:
    """A copy with another value, or without one (None), at a place."""
    content = copy.deepcopy(content)
    entry = content
    for key in place[:-1]:
        entry = entry[key]
    if value is None:
        del entry[place[-1]]
    else:
        entry[place[-1]] = value
    return content


def test_optional_fields_and_text_ids(write):
    assert check_instances(write(INSTANCES)) == (["cat", "dog"], 1, [[7, "a"]])
    assert check_panoptic(write(PANOPTIC), THINGS, STUFF) == [[7, "a"], [8, "b"]]
    check_panoptic(write(PANOPTIC), {})
    check_panoptic(write(changed(PANOPTIC, ["categories"], None)), THINGS, STUFF)


@pytest.mark.parametrize("isthing", [0, 1])
def test_categories_that_are_ignored_are_things_or_stuff(write, isthing):
    path = write(changed(PANOPTIC, ["categories", 1, "isthing"], isthing))
    check_panoptic(path, THINGS, (), STUFF)
    without = write(changed(PANOPTIC, ["categories"], None))
    check_panoptic(without, THINGS, (), STUFF)
    with pytest.raises(InputError, match="segment 2 of the category_id 3, which the categories"):
        check_panoptic(without, THINGS)


def test_a_test_set_has_no_annotations(write):
    assert check_instances(write(changed(INSTANCES, ["annotations"], None))).learnt == 0


@pytest.mark.parametrize(
    ("given", "expected"), [("000007", 7), (7, 7), ("ADE_7", "ADE_7"), ("-7", "-7")]
)
def test_ids_of_pictures(given, expected):
    assert picture_id(given) == expected


FIRST = ["annotations", 0]
NAN = float("nan")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            [*FIRST, "image_id"],
            7,
            r"annotation 0 \(id 1\) .* has the image_id 7, which is none .*'0",
        ),
        ([*FIRST, "image_id"], None, "has no image_id"),
        ([*FIRST, "category_id"], 4, "has the category_id 4, which is none of those listed, .* 9;"),
        ([*FIRST, "category_id"], [9], r"has the category_id \[9\]"),
        ([*FIRST, "id"], 2, r"annotation 1 \(id 2\) .* has an id that another has"),
        ([*FIRST, "id"], None, "has no id"),
        ([*FIRST, "iscrowd"], "no", "has the iscrowd 'no'"),
        ([*FIRST, "ignore"], 1, "the ignore 1"),
        ([*FIRST, "segmentation"], None, "a box alone is not enough"),
        ([*FIRST, "segmentation"], [], "a box alone is not enough"),
        ([*FIRST, "segmentation"], [[0, 0, 2, 2]], "has a polygon of 4 numbers"),
        ([*FIRST, "segmentation"], {"size": [4, 6], "counts": [3]}, "count 3 pixels of 24"),
        ([*FIRST, "segmentation"], {"size": [4, 6], "counts": "3"}, "count 3 pixels of 24"),
        ([*FIRST, "segmentation"], [[0, 0, 900, 0, 2, 2]], r"image is 6x4 pixels"),
        ([*FIRST, "segmentation"], [[0, 0, NAN, 0, 2, 2]], r"NaN in entry 0 of annotations \(id 1"),
        ([*FIRST, "bbox"], [], r"has the bbox \[\]"),
        ([*FIRST, "area"], "12", "has the area '12'"),
        ([*FIRST, "area"], NAN, "has NaN in entry 0 of annotations"),
        (["images", 0, "file_name"], None, "entry 0 of images in .* has no file_name"),
        (["images", 0, "height"], None, "entry 0 of images in .* has the height None"),
        (["images"], [], "lists no images"),
        (["images"], INSTANCES["images"] * 2, "entry 1 of images .* has the id '000007', which"),
        (["images"], None, "has no list of images"),
        (["categories", 0, "id"], "3", "entry 1 of categories in .* has the id 3, which another"),
        (["categories", 0, "id"], "4", "ids of categories in .* partly numbers, partly text"),
        (["categories", 0, "name"], None, "entry 0 of categories in .* has no name"),
        (["annotations"], {"1": 2}, "has no list of annotations"),
    ],
)
def test_faults_of_instances(write, place, value, message):
    path = write(changed(INSTANCES, place, value))
    with pytest.raises(InputError, match=message) as caught:
        check_instances(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


SEGMENT = [*FIRST, "segments_info", 0]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            [*FIRST, "image_id"],
            "08",
            r"annotation 1 \(b.png\) .* has the image_id 8, which another",
        ),
        ([*FIRST, "file_name"], "b.png", "has the file_name 'b.png', which another has"),
        ([*FIRST, "segments_info"], None, "has no segments_info"),
        ([*FIRST, "segments_info"], [1], "has segments_info that are no maps"),
        ([*SEGMENT, "id"], 2, r"a.png.* have the ids 2 more than once"),
        ([*SEGMENT, "id"], 0, "has the id 0 and"),
        ([*SEGMENT, "id"], "1", "has the id '1' and"),
        ([*SEGMENT, "category_id"], 4, "segment 1 of the category_id 4, which the categories"),
        ([*SEGMENT, "category_id"], "9", "segment 1 of the category_id '9'"),
        ([*SEGMENT, "category_id"], None, "lacks category_id"),
        ([*SEGMENT, "category_id"], [9], r"the category_id \[9\]"),
        ([*SEGMENT, "iscrowd"], "no", "the iscrowd 'no'"),
        ([*SEGMENT, "area"], -1, "has the area -1"),
        ([*SEGMENT, "area"], NAN, r"has NaN in entry 0 of annotations \(image_id 000007, file"),
        (["categories", 1, "isthing"], 1, "category 3 .* isthing 1, but .* among the stuff"),
        (["categories", 1, "isthing"], "no", "category 3 .* isthing 'no'"),
        (["categories", 1, "id"], 9, "entry 1 of categories .* has the id 9, which another"),
        (["annotations"], [], "lists no pictures"),
        (["annotations"], None, "has no list of annotations"),
    ],
)
def test_faults_of_panoptic_files(write, place, value, message):
    path = write(changed(PANOPTIC, place, value))
    with pytest.raises(InputError, match=message) as caught:
        check_panoptic(path, THINGS, STUFF)
    assert path in str(caught.value)


@pytest.mark.parametrize("check", [check_instances, lambda path: check_panoptic(path, {})])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(PANOPTIC)[:-9], r"data.json cannot be read \(.* truncated"),
        ("", "cannot be read"),
        ("[]", "has no list of .*, but a list"),
        ("7", "has no list of .*, but a int"),
        ("[NaN]", "has NaN in entry 0 of the file, which is no number"),
        ("NaN", "has NaN, which is no number"),
    ],
)
def test_no_such_file(write, check, content, message):
    with pytest.raises(InputError, match=message):
        check(write(content))


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        check_instances(str(tmp_path / "none.json"))


def test_a_file_is_checked_once_until_it_changes(write, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mask_former"), "propagate", True)
    caplog.set_level(logging.INFO, logger="mask_former")
    path = write(PANOPTIC)
    check_panoptic(path, THINGS, STUFF)
    monkeypatch.setattr(json_files, "_check_panoptic", lambda *_: pytest.fail("checked again"))
    check_panoptic(path, THINGS, STUFF)
    monkeypatch.undo()
    write(changed(PANOPTIC, [*SEGMENT, "id"], 2))
    os.utime(path, ns=(1, 1))  # a clock may be too coarse to tell the two apart
    with pytest.raises(InputError, match="more than once"):
        check_panoptic(path, THINGS, STUFF)


def test_other_rules_look_at_a_file_again(write, tmp_path, monkeypatch):
    path = write(PANOPTIC)
    check_panoptic(path, THINGS, STUFF)
    checked = []
    monkeypatch.setattr(json_files, "_check_panoptic", lambda *_: checked.append(1) or checked)
    rules = tmp_path / "entries.py"
    rules.write_bytes(Path(entries.__file__).read_bytes() + b"# another version\n")
    monkeypatch.setattr(entries, "__file__", str(rules))

    check_panoptic(path, THINGS, STUFF)

    assert checked == [1]


def test_a_cache_that_cannot_be_written(write, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert check_instances(write(INSTANCES)).classes == ["cat", "dog"]
