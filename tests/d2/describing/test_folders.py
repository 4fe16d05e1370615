"""Pairs of pictures and label maps, found by the names of files and folders alone."""

from pathlib import Path

import pytest

from mask_former.d2.describing.folders import Found, find_splits
from mask_former.d2.errors import InputError

N = ("", "")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        ("images/a.jpg masks/a.png", "", ("images", "masks", "", "")),
        (
            "images/train/a.jpg labels/train/a.png",
            "train",
            ("images/train", "labels/train", "", ""),
        ),
        ("valid/images/a.webp valid/masks/a.TIF", "val", ("valid/images", "valid/masks", "", "")),
        ("a.jpg a_mask.png b.jpg b_mask.png", "", (".", ".", "", "_mask")),
        ("test/a.png test/a_seg.png", "test", ("test", "test", "", "_seg")),
        ("train/a.png trainannot/a.png", "train", ("train", "trainannot", "", "")),
        ("images/a.png labels/a_L.png", "", ("images", "labels", "", "_L")),
        ("one/a.jpg two/a.png", "", ("one", "two", "", "")),
        ("large_pictures/a.png b/a.png", "", ("large_pictures", "b", "", "")),
        (
            "train2017/a.jpg labels/train2017/a.png",
            "train",
            ("train2017", "labels/train2017", "", ""),
        ),
        (
            "leftImg8bit/train/x/a_leftImg8bit.png gtFine/train/x/a_gtFine_color.png "
            "gtFine/train/x/a_gtFine_instanceIds.png gtFine/train/x/a_gtFine_labelIds.png",
            "train",
            ("leftImg8bit/train", "gtFine/train", "_leftImg8bit", "_gtFine_labelIds"),
        ),
    ],
)
def test_layouts(folder, names, split, expected):
    touch(folder, *names.split())

    (found,) = find_splits(str(folder)).items()

    assert found[0] == split
    assert found[1][1:6] == (*expected, True)
    assert all(labels is not None for _, labels in found[1].pairs)


def test_pictures_without_a_label_map_are_kept(folder):
    touch(folder, "images/a.jpg", "images/b.jpg", "masks/a.png")
    assert find_splits(str(folder))[""].pairs == [
        ("images/a.jpg", "masks/a.png"),
        ("images/b.jpg", None),
    ]


def test_a_split_without_labels(folder):
    touch(folder, "images/train/a.jpg", "labels/train/a.png", "images/test/b.jpg")
    splits = find_splits(str(folder))
    assert splits["test"].pairs == [("images/test/b.jpg", None)]
    assert splits["train"].pairs == [("images/train/a.jpg", "labels/train/a.png")]


def test_folders_that_no_two_names_describe_need_a_list(folder):
    touch(folder, "town/images/a.jpg", "town/labels/a.png", "sea/images/a.jpg", "sea/labels/a.png")
    assert find_splits(str(folder)) == {
        "": Found(
            [("sea/images/a.jpg", "sea/labels/a.png"), ("town/images/a.jpg", "town/labels/a.png")],
            *(".", ".", "", ""),
            is_regular=False,
            orphans=[],
        )
    }


def test_splits_from_lists(folder):
    touch(folder, "JPEGImages/a.jpg", "JPEGImages/b.jpg", "JPEGImages/c.jpg")
    touch(folder, "SegmentationClass/a.png", "SegmentationClass/b.png")
    for split, stem in (("train", "a"), ("val", "b")):
        touch(folder, f"ImageSets/Segmentation/{split}.txt")
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text(f"{stem}\n")

    splits = find_splits(str(folder))

    assert splits["train"].pairs == [("JPEGImages/a.jpg", "SegmentationClass/a.png")]
    assert splits["val"].pairs == [("JPEGImages/b.jpg", "SegmentationClass/b.png")]
    assert not splits["train"].is_regular


def test_a_name_in_two_lists(folder):
    touch(folder, "JPEGImages/a.jpg", "SegmentationClass/a.png")
    for task, split in (("Main", "train"), ("Segmentation", "val"), ("Segmentation", "test")):
        touch(folder, f"ImageSets/{task}/{split}.txt")
        (folder / f"ImageSets/{task}/{split}.txt").write_text("a\n")
    assert list(find_splits(str(folder))) == ["val"]  # the last of the last folder
    (folder / "ImageSets/Segmentation/train.txt").write_text("a\n")
    with pytest.raises(InputError, match=r"test\.txt and .*train\.txt of .* both list a; what is"):
        find_splits(str(folder))


def test_no_label_map_at_all(folder):
    touch(folder, "a.jpg", "b.jpg")
    assert find_splits(str(folder)) == {}
