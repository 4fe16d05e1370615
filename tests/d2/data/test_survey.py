"""A survey counts right, and goes on where it was stopped."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask_former.d2.data import examination
from mask_former.d2.data import survey as survey_module
from mask_former.d2.data.counting import ClassCount, SegmentsPerPicture, Spread
from mask_former.d2.data.survey import MEMORY
from mask_former.d2.errors import InputError
from tests.d2.data.surveys import (
    INSTANCES,
    NOISE,
    PANOPTIC,
    SPLITS,
    blocks,
    kinds,
    square,
    the,
    write_instances,
    write_panoptic,
)


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


def test_a_split_without_labels(pairs, surveyed):
    found = surveyed(splits={**SPLITS, "test": {"images": "images/val"}})

    assert kinds(found) == {"twice": 1}
    assert (found.splits[2].pictures, found.splits[2].labelled) == (1, 0)
    assert (found.splits[2].unlabelled, found.splits[2].segments) == (None, None)


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


def test_numbers_of_panoptic_maps(save, surveyed, tmp_path):
    write_panoptic(save, tmp_path)

    found = surveyed(**PANOPTIC)

    (train,) = found.splits
    assert found.findings == ()
    assert train.classes == (ClassCount(1536, 1, 1), ClassCount(1536, 1, 1))
    assert train.unlabelled == 0.5  # void and the crowd
    assert train.segments == SegmentsPerPicture(2, 2, 2)


def test_numbers_of_instances(save, surveyed, tmp_path):
    crowd = {"size": [64, 96], "counts": [64 * 64, 32 * 64]}
    write_instances(save, tmp_path, square(0, 8), square(4, 8), crowd, crowd=1)

    found = surveyed(**INSTANCES)

    (train,) = found.splits
    assert found.findings == ()
    assert train.classes == (ClassCount(128, 1, 2),)
    assert train.unlabelled == pytest.approx(1 - 96 / (64 * 96))  # 32 pixels belong to both
    assert train.segments == SegmentsPerPicture(2, 2, 2)
