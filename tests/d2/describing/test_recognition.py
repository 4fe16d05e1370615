"""What is recognised in a folder, and what the data then are."""

import json
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.data.datasets import register_descriptions
from mask_former.d2.data.description import Description, read_description
from mask_former.d2.data.mappers import (
    MaskFormerInstanceDatasetMapper,
    MaskFormerPanopticDatasetMapper,
    MaskFormerSemanticDatasetMapper,
)
from mask_former.d2.describing import values
from mask_former.d2.describing.recognition import Recognized, description_text, recognize
from mask_former.d2.errors import InputError


def described(folder: Path, output: Path, **options: Any) -> tuple[Description, Recognized]:
    found = recognize(str(folder), str(output), **options)
    file = output / "dataset.yaml"
    file.write_text(description_text(found))
    return read_description(str(file)), found


def first_sample(description: Description, mapper: type, split: str = "train") -> dict:
    cfg = get_mask_former_cfg()
    cfg.DATASETS.DESCRIPTIONS = [description.file]
    register_descriptions(cfg)
    name = f"{description.name}_{split}"
    options = {"augmentations": [], "image_format": "RGB"}
    if mapper is not MaskFormerInstanceDatasetMapper:
        options["ignore_label"] = description.ignore_label
    try:
        sample = DatasetCatalog.get(name)[0]
    finally:
        for each in description.splits:
            DatasetCatalog.remove(each.name)
            MetadataCatalog.remove(each.name)
    return mapper(num_classes=len(description.classes), **options)(sample)


def semantic(description: Description) -> list[int]:
    labels = first_sample(description, MaskFormerSemanticDatasetMapper)["sem_seg"]
    return labels.unique().tolist()


def test_index_masks(folder, output, write):
    write("images/train/a.jpg", "images/val/b.jpg")
    write("labels/train/a.png", values=[0, 2, 255])
    write("labels/val/b.png", values=[0, 5])
    description, found = described(folder, output)
    assert [(c.name, c.values) for c in description.classes] == [
        ("class_0", (0,)),
        ("class_2", (2,)),
        ("class_5", (5,)),
    ]
    assert description.ignore == (255,)
    assert description.name == "my_data"
    assert semantic(description) == [0, 1, 255]
    assert any("no class names were found" in note for note in found.notes)
    assert any("nobody is trained on values 255" in note for note in found.notes)


def test_names_from_a_file_and_values_that_the_user_ignores(folder, output, write, tmp_path):
    write("images/train/a.jpg", "images/val/b.jpg")
    write("labels/train/a.png", "labels/val/b.png", values=[0, 1, 2])
    (folder / "classes.txt").write_text("road\nsky\nnothing\n")
    description, found = described(folder, output, ignore=[2])
    assert [c.name for c in description.classes] == ["road", "sky"]
    assert semantic(description) == [0, 1, 255]
    assert any("class names are those of" in note for note in found.notes)

    (tmp_path / "names.json").write_text('{"0": "a", "1": "b", "2": "void"}')
    description, _ = described(folder, output, names=str(tmp_path / "names.json"))
    assert [c.name for c in description.classes] == ["a", "b"]
    assert description.ignore == (2,)
    with pytest.raises(InputError, match=r"no label map has the value 9"):
        described(folder, output, ignore=[9])
    (tmp_path / "names.json").write_text("{}")
    with pytest.raises(InputError, match=r"names.json has no class names; give a name a line"):
        described(folder, output, names=str(tmp_path / "names.json"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nroad:128,64,128::\nvoid:0,0,0::\n"),
        ("label_colors.txt", "128 64 128\troad\n0 0 0\tVoid\n"),
        ("class_dict.csv", "name, r, g, b\nroad, 128, 64, 128\nvoid, 0, 0, 0\n"),
    ],
)
@pytest.mark.parametrize("palette", [None, [0, 0, 0, 128, 64, 128]])
def test_colour_masks_with_a_table(folder, output, write, file, content, palette):
    write("images/train/a.jpg", "images/val/b.jpg")
    values = [1, 0] if palette else [[128, 64, 128], [0, 0, 0]]
    write("masks/train/a.png", "masks/val/b.png", values=values, palette=palette)
    (folder / file).write_text(content)
    description, _ = described(folder, output)
    assert description.has_colors
    assert [(c.name, c.color) for c in description.classes] == [("road", (128, 64, 128))]
    assert semantic(description) == [0, 255]


def test_a_palette_without_a_table_gives_numbers_and_colours(folder, output, write):
    write("images/train/a.jpg", "images/val/b.jpg")
    palette = [0, 0, 0, 10, 20, 30]
    write("masks/train/a.png", "masks/val/b.png", values=[0, 1], palette=palette)
    description, _ = described(folder, output)
    assert [(c.name, c.color) for c in description.classes] == [
        ("background", (0, 0, 0)),
        ("foreground", (10, 20, 30)),
    ]


@pytest.mark.parametrize("high", [1, 255])
def test_binary_masks(folder, output, write, high):
    for stem in "abcde":
        write(f"{stem}.jpg")
        write(f"{stem}_mask.png", values=[0, high])
    description, found = described(folder, output)
    assert [c.name for c in description.classes] == ["background", "foreground"]
    assert description.ignore == ()
    assert semantic(description) == [0, 1]
    assert any("label maps are binary: 0 is the class background" in n for n in found.notes)
    lists = {s: (output / f"{s}.txt").read_text().split("\n")[:-1] for s in ("train", "val")}
    assert {len(lines) for lines in lists.values()} == {4, 1}
    assert len({*lists["train"], *lists["val"]}) == 5


def test_16_bits(folder, output, write):
    write("images/train/a.jpg", "images/val/b.jpg")
    write("labels/train/a.tif", "labels/val/b.tif", values=[0, 300, 65535])
    description, _ = described(folder, output)
    assert [c.values for c in description.classes] == [(0,), (300,)]
    assert description.ignore == (65535,)
    assert semantic(description) == [0, 1, 255]


@pytest.mark.parametrize(
    ("few", "workers", "expected"), [(64, None, 1), (2, None, 5), (64, 2, 2), (2, 1, 1)]
)
def test_processes_that_read_label_maps(folder, output, write, monkeypatch, few, workers, expected):
    write("images/train/a.jpg", "images/val/b.jpg")
    write("labels/train/a.png", "labels/val/b.png", values=[0, 1, 2])
    used = []

    def alone(prepare, items, workers, title):
        used.append(workers)
        return map(prepare, items)

    monkeypatch.setattr(values, "_FEW_FILES", few)
    monkeypatch.setattr(values, "as_they_come", alone)
    monkeypatch.setattr("os.cpu_count", lambda: 5)

    described(folder, output, workers=workers)

    assert used == [expected]


def test_two_processes_find_the_same_values(folder, write):
    write("a.png", values=[0, 1], palette=[0, 0, 0, 10, 20, 30])
    write("b.png", values=[0, 300])
    files = [str(folder / name) for name in ("a.png", "b.png")]
    assert values.scan(files, workers=2) == values.scan(files, workers=1)


def test_photographs_are_no_label_maps(folder, output, write):
    write("images/a.jpg", "labels/a.png")
    with pytest.raises(InputError, match=r"labels/a.png has \d+ colours, so it is a photograph"):
        described(folder, output)


def test_same_pictures_stay_in_one_split(folder, output, write):
    for stem in "abcdef":
        write("images/x.jpg")
        (folder / "images/x.jpg").rename(folder / f"images/{stem}.jpg")
        write(f"masks/{stem}.png", values=[0, 1])
    with pytest.raises(
        InputError, match=r"6 have a label map, all the same as images/a.jpg; two different"
    ):
        described(folder, output)


def coco(folder: Path, name: str, panoptic: bool) -> None:
    segment = {"id": 1, "category_id": 7, "iscrowd": 0, "area": 768, "bbox": [0, 0, 24, 32]}
    polygon = [[0, 0, 24, 0, 24, 32, 0, 32]]
    entry = {"image_id": 4, **segment, "segmentation": polygon}
    if panoptic:
        entry = {"image_id": 4, "file_name": "a.png", "segments_info": [segment]}
    content = {
        "images": [{"id": 4, "file_name": "a.jpg", "width": 48, "height": 32}],
        "annotations": [entry],
        "categories": [{"id": 7, "name": "car", "isthing": 1}, {"id": 9, "name": "sky"}],
    }
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def test_coco_panoptic(folder, output, write):
    write("train2017/a.jpg")
    write("panoptic_train2017/a.png", values=[[1, 0, 0]] * 24 + [[0, 0, 0]] * 24)
    coco(folder, "annotations/panoptic_train2017.json", panoptic=True)
    coco(folder, "annotations/instances_train2017.json", panoptic=False)
    description, found = described(folder, output)
    assert description.task == "panoptic"
    assert [(c.name, c.id, c.is_thing) for c in description.classes] == [
        ("car", 7, True),
        ("sky", 9, False),
    ]
    instances = first_sample(description, MaskFormerPanopticDatasetMapper)["instances"]
    assert instances.gt_classes.tolist() == [0]
    assert instances.gt_masks.sum() == 768
    assert any("there is no split val: train is evaluated instead" in n for n in found.notes)


@pytest.mark.parametrize("is_complete", [True, False])
def test_numbered_files_of_two_splits(folder, output, write, is_complete):
    """Each JSON has the files of its own split, though the other's have the same names."""
    for split, names in (("train", "ab"), ("val", "ab")):
        for name in names:
            write(f"images/{split}/{name}.png")
            write(f"panoptic/{split}/{name}.png", values=[[1, 0, 0]])
        coco(folder, f"panoptic_{split}.json", panoptic=True)
        content = json.loads((folder / f"panoptic_{split}.json").read_text())
        for key in ("images", "annotations"):
            content[key] = [{**content[key][0], "file_name": f"{name}.png"} for name in names]
        (folder / f"panoptic_{split}.json").write_text(json.dumps(content))
    if not is_complete:
        (folder / "panoptic/train/a.png").unlink()
    description, _ = described(folder, output)
    assert [(s.images, s.panoptic) for s in description.splits] == [
        ("images/train", "panoptic/train"),
        ("images/val", "panoptic/val"),
    ]


def test_files_of_a_json_without_a_split(folder, output, write):
    """They lie where most of them are."""
    write("old/a.jpg", "photos/a.jpg", "photos/b.jpg")
    coco(folder, "all.json", panoptic=False)
    content = json.loads((folder / "all.json").read_text())
    content["images"] += [{**content["images"][0], "id": 5, "file_name": "b.jpg"}]
    (folder / "all.json").write_text(json.dumps(content))
    description, _ = described(folder, output)
    assert description.splits[0].images == "photos"


@pytest.mark.parametrize("key", ["categories", "images"])
@pytest.mark.parametrize("value", [None, []])
def test_annotations_without_a_table(folder, output, write, key, value):
    """The PNGs would pass for semantic label maps, whose classes are the numbers of segments."""
    write("images/train/a.jpg")
    write("panoptic/train/a.png", values=[[1, 0, 0]])
    coco(folder, "panoptic_train.json", panoptic=True)
    content = {**json.loads((folder / "panoptic_train.json").read_text()), key: value}
    content = {k: v for k, v in content.items() if v is not None}
    (folder / "panoptic_train.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"train.json has annotations, but no {key}, as COCO's"):
        described(folder, output)


def test_a_json_without_annotations_is_told(folder, output, write):
    write("train/a.jpg", "val/a.jpg")
    for split in ("train", "val"):
        coco(folder, f"{split}.json", panoptic=False)
    content = json.loads((folder / "val.json").read_text())
    (folder / "val.json").write_text(json.dumps({**content, "annotations": []}))
    description, found = described(folder, output)
    assert [split.json for split in description.splits] == ["train.json"]
    assert "val.json has no annotations and is left out" in found.notes


def test_coco_instances(folder, output, write):
    write("train/a.jpg")
    coco(folder, "train/_annotations.coco.json", panoptic=False)
    description, _ = described(folder, output)
    assert description.task == "instance"
    instances = first_sample(description, MaskFormerInstanceDatasetMapper)["instances"]
    assert instances.gt_classes.tolist() == [0]
    assert instances.gt_masks.sum() == 768


def test_two_json_files_of_a_split(folder, output, write):
    write("train/a.jpg", "val/a.jpg")
    for split in ("train", "val"):
        coco(folder, f"annotations/instances_{split}.json", panoptic=False)
        keypoints = folder / f"annotations/person_keypoints_{split}.json"
        content = json.loads((folder / f"annotations/instances_{split}.json").read_text())
        categories = [{"id": 7, "name": "person", "keypoints": ["nose"]}]
        keypoints.write_text(json.dumps({**content, "categories": categories}))
    description, _ = described(folder, output)
    assert [c.name for c in description.classes] == ["car", "sky"]
    coco(folder, "annotations/more_train.json", panoptic=False)
    with pytest.raises(InputError, match=r"more_train.json and .*instances_train.json are both of"):
        described(folder, output)


@pytest.mark.parametrize("name", ["annotations/instances_default.json", "train/x.json"])
def test_a_json_of_all_pictures_is_split(folder, output, write, name):
    for stem in "abcdefg":
        write(f"images/{stem}.jpg")
    twin = (folder / "images/a.jpg").read_bytes()
    (folder / "images/b.jpg").write_bytes(twin)
    coco(folder, name, panoptic=False)
    content = json.loads((folder / name).read_text())
    (image,), (annotation,) = content["images"], content["annotations"]
    content["images"] = [
        {**image, "id": i, "file_name": f"{s}.jpg"} for i, s in enumerate("abcdefg")
    ]
    content["annotations"] = [{**annotation, "id": i, "image_id": i} for i in range(6)]
    (folder / name).write_text(json.dumps(content), encoding="utf-8-sig")
    description, found = described(folder, output)
    parts = [json.loads(Path(str(split.json)).read_text()) for split in description.splits]
    pictures = [{image["file_name"] for image in part["images"]} for part in parts]
    assert [split.name for split in description.splits] == ["my_data_train", "my_data_val"]
    assert not pictures[0] & pictures[1]
    assert pictures[0] | pictures[1] == {f"{stem}.jpg" for stem in "abcdefg"}
    assert len(pictures[1] - {"a.jpg", "b.jpg"}) in (0, 1)
    assert {"a.jpg", "b.jpg"} <= pictures[0] or {"a.jpg", "b.jpg"} == pictures[1]
    assert "g.jpg" in pictures[0]  # nothing is marked in it
    assert sum(len(part["annotations"]) for part in parts) == 6
    assert any("drawn for validation, and listed in" in note for note in found.notes)
    assert first_sample(description, MaskFormerInstanceDatasetMapper)["instances"].gt_masks.any()


@pytest.mark.parametrize(
    ("ending", "car", "void"), [("labelIds", 26, 3), ("labelTrainIds", 13, 255)]
)
def test_names_of_cityscapes(folder, output, write, ending, car, void):
    for split, city in (("train", "aachen"), ("val", "ulm")):
        write(f"leftImg8bit/{split}/{city}/{city}_0_leftImg8bit.png")
        write(f"gtFine/{split}/{city}/{city}_0_gtFine_{ending}.png", values=[car, void])
        write(f"gtFine/{split}/{city}/{city}_0_gtFine_color.png")
        polygons = folder / f"gtFine/{split}/{city}/{city}_0_gtFine_polygons.json"
        polygons.write_text(json.dumps({"imgHeight": 32, "imgWidth": 48, "objects": []}))
    description, found = described(folder, output)
    assert [c.name for c in description.classes][::13] == ["road", "car"]
    assert len(description.classes) == 19
    assert void in description.ignore
    assert semantic(description) == [13, 255]
    assert "class names are those of Cityscapes" in found.notes


@pytest.mark.parametrize(("object_name", "is_voc"), [("dog", True), ("crack", False)])
def test_names_of_voc(folder, output, write, object_name, is_voc):
    palette = [0] * 768
    palette[45:48] = 192, 128, 128
    for split, name in (("train", "a"), ("val", "b")):
        write(f"JPEGImages/{name}.jpg")
        write(f"SegmentationClass/{name}.png", values=[0, 12, 255], palette=palette)
        box = folder / f"Annotations/{name}.xml"
        box.parent.mkdir(exist_ok=True)
        thing = f"<object><name>{object_name}</name><bndbox/></object>"
        box.write_text(f"<annotation><filename>{name}.jpg</filename>{thing}</annotation>")
        listing = folder / f"ImageSets/Segmentation/{split}.txt"
        listing.parent.mkdir(exist_ok=True, parents=True)
        listing.write_text(name)
    description, _ = described(folder, output)
    names = [c.name for c in description.classes]
    assert description.ignore == (255,)
    if is_voc:
        assert len(names) == 21
        assert names[12] == "dog"
        assert semantic(description) == [0, 12, 255]
    else:
        assert names == ["class_0", "class_12"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("objectInfo150.txt", "Idx\tRatio\tName\n1\t0.1\twall\n2\t0.1\tbuilding, edifice\n"),
        ("objectInfo150.csv", "Idx,Ratio,Name\n1,0.1,wall\n2,0.1,building;edifice\n"),
    ],
)
def test_names_of_ade20k(folder, output, write, name, text):
    for split, stem in (("training", "a"), ("validation", "b")):
        write(f"images/{split}/{stem}.jpg")
        write(f"annotations/{split}/{stem}.png", values=[0, 1, 2])
    (folder / name).write_text(text)
    description, _ = described(folder, output)
    assert [(c.name, c.values) for c in description.classes] == [("wall", (1,)), ("building", (2,))]
    assert description.ignore == (0,)
    (folder / name).write_text("Idx\tTitle\n1\twall\n")
    with pytest.raises(InputError, match=r"file of class names .*objectInfo150.* cannot be read"):
        described(folder, output)


def yolo(folder: Path, line: str) -> None:
    (folder / "data.yaml").write_text(
        "names: {0: car, 1: bus}\ntrain: images/train\nval: images/val\n"
    )
    for split, stem in (("train", "a"), ("val", "b")):
        (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
        (folder / "labels" / split / f"{stem}.txt").write_text(line)


def test_yolo(folder, output, write):
    write("images/train/a.jpg", "images/val/b.jpg")
    yolo(folder, "1 0 0 0.5 0 0.5 1 0 1\n")
    description, _ = described(folder, output)
    instances = first_sample(description, MaskFormerInstanceDatasetMapper)["instances"]
    assert instances.gt_classes.tolist() == [1]
    assert instances.gt_masks[0, :, :24].all()
    assert not instances.gt_masks[0, :, 24:].any()
    (annotation,) = json.loads((output / "annotations/instances_val.json").read_text())[
        "annotations"
    ]
    assert annotation["area"] == 768
    assert annotation["bbox"] == [0, 0, 24, 32]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("0 0.5 0.5 0.2 0.2", r"has 4 numbers after the class, .* a box alone is no mask"),
        ("5 0 0 1 0 1 1", r"has the class 5, which `names` does not list"),
        ("0 0 0 10 0 10 10", r"are not shares of width and height, 0 to 1"),
        ("car 0 0 1 0 1 1", r"is no line of a class and numbers"),
    ],
)
def test_yolo_lines_that_are_no_polygons(folder, output, write, line, sentence):
    write("images/train/a.jpg", "images/val/b.jpg")
    yolo(folder, line)
    with pytest.raises(InputError, match=sentence) as error:
        described(folder, output)
    assert "labels/train/a.txt" in str(error.value)


def test_yolo_lines_of_another_encoding(folder, output, write):
    write("images/train/a.jpg", "images/val/b.jpg")
    yolo(folder, "0 0 0 1 0 1 1\n")
    (folder / "labels/val/b.txt").write_bytes(b"0 0 0 1 0 1 \xff\n")
    with pytest.raises(InputError, match=r"label file .*labels/val/b.txt cannot be read"):
        described(folder, output)


@pytest.mark.parametrize(
    "text", ["a: !Ref b\n", "---\na: 1\n---\nb: 2\n", "d: 2020-99-99\n", "\xff"]
)
def test_yaml_of_another_program(folder, output, write, text):
    write("images/train/a.jpg", "images/val/b.jpg")
    yolo(folder, "0 0 0 1 0 1 1\n")
    (folder / "a.yaml").write_bytes(text.encode("latin-1"))
    assert described(folder, output)[0].task == "instance"


def test_yaml_of_yolo_that_is_broken(folder, output, write):
    write("images/train/a.jpg", "images/val/b.jpg")
    yolo(folder, "0 0 0 1 0 1 1\n")
    with open(folder / "data.yaml", "a") as file:
        file.write("nc: [\n")
    with pytest.raises(InputError, match=r"YAML .*data.yaml cannot be read \(.* line .*; mend"):
        described(folder, output)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("categories", [{"id": 7}]),
        ("categories", ["car"]),
        ("categories", 5),
        ("annotations", {"1": {}}),
        ("annotations", [5]),
        ("images", ["a.jpg"]),
        ("images", [{"file_name": 5}]),
    ],
)
def test_a_json_that_is_like_cocos(folder, output, write, key, value):
    write("train/a.jpg")
    coco(folder, "train/x.json", panoptic=False)
    content = json.loads((folder / "train/x.json").read_text())
    (folder / "train/x.json").write_text(json.dumps({**content, key: value}))
    with pytest.raises(InputError, match=r"JSON .*train/x.json cannot be read \("):
        described(folder, output)


@pytest.mark.parametrize("key", ["images", "annotations"])
def test_a_json_to_be_split_without_ids(folder, output, write, key):
    write("images/a.jpg")
    coco(folder, "x.json", panoptic=False)
    content = json.loads((folder / "x.json").read_text())
    content[key][0] = {k: v for k, v in content[key][0].items() if k not in ("id", "image_id")}
    (folder / "x.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"JSON .*x.json cannot be read \('(image_)?id'\)"):
        described(folder, output)


def test_boxes_are_refused(folder, output, write):
    write("train/a.jpg")
    coco(folder, "train/boxes.json", panoptic=False)
    content = json.loads((folder / "train/boxes.json").read_text())
    del content["annotations"][0]["segmentation"]
    (folder / "train/boxes.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"boxes.json has boxes and no masks"):
        described(folder, output)


def test_pictures_of_a_json_that_lie_nowhere(folder, output):
    coco(folder, "annotations/x.json", panoptic=False)
    with pytest.raises(InputError, match=r"x.json names a.jpg, which lies nowhere in"):
        described(folder, output)


def test_what_a_list_names_and_is_not_there_is_told(folder, output, write):
    """As of an unpacked archive of which a part is missing."""
    for name in "abc":
        write(f"JPEGImages/{name}.jpg")
        write(f"SegmentationClass/{name}.png", values=[0, 1])
    for split, names in {"train": "ab", "val": "cxy"}.items():
        listing = folder / f"ImageSets/Segmentation/{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(names))
    _, found = described(folder, output)
    told = "2 names in lists of splits have no picture and are left out, such as x"
    assert told in found.notes
    write("JPEGImages/x.jpg", "JPEGImages/y.jpg")
    _, found = described(folder, output)
    assert not any("names in lists" in note for note in found.notes)


def test_what_a_list_does_not_name_is_told(folder, output, write):
    """Of folders the survey tells; the lists name pairs alone."""
    write(*(f"images/{name}.jpg" for name in "abcd"))
    for name in "abx":
        write(f"labels/{name}.png", values=[0, 1])
    _, found = described(folder, output)
    assert "2 pictures have no label map and are left out, such as images/c.jpg" in found.notes
    assert "1 label maps have no picture and are left out, such as labels/x.png" in found.notes
    for split in ("train", "val"):
        write(f"{split}/images/{split}.jpg")
        write(f"{split}/labels/{split}.png", values=[0, 1])
    _, found = described(folder, output)
    assert "4 pictures are in no split and are left out, such as images/a.jpg" in found.notes
    assert not any("no label map" in note for note in found.notes)


def test_too_few_pictures_to_divide(folder, output, write):
    write("images/1.jpg", "images/2.jpg")
    write("labels/1.png", "labels/002.png", values=[0, 1])
    with pytest.raises(InputError, match=r"of the 2 pictures of .*, 1 have a label map; two diff"):
        described(folder, output)
    (folder / "labels/002.png").rename(folder / "labels/2.png")
    (folder / "images/2.jpg").write_bytes((folder / "images/1.jpg").read_bytes())
    with pytest.raises(InputError, match=r"2 have a label map, all the same as images/1\.jpg; two"):
        described(folder, output)


def test_names_that_do_not_match(folder, output, write):
    write("images/a1.jpg", "images/a2.jpg", "labels/b1.jpg")
    with pytest.raises(InputError, match=r"has label maps such as labels/b1.jpg, whose format ch"):
        described(folder, output)
    write("labels/b1.png", values=[0, 1])
    with pytest.raises(InputError, match=r"2 pictures such as images/a1.jpg and 2 label maps such"):
        described(folder, output)


def test_nothing_that_is_known(folder, output, write):
    write("a.jpg")
    with pytest.raises(InputError, match=r"nothing that is known lies in .*my data; known are"):
        described(folder, output)
    with pytest.raises(InputError, match=r"nowhere is no folder; give the folder that holds"):
        recognize(str(folder / "nowhere"), str(output))
