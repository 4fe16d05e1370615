"""The one order of the training data: for workers, processes and interruptions alike."""

import random
from itertools import count, islice

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from PIL import Image

from mask_former.d2.data.reading import LabelValues
from mask_former.d2.errors import InputError
from mask_former.d2.run.data_order import OrderedLoader, _order, _segments, build_train_loader
from mask_former.d2.run.randomness import reseed, reseeded
from tests.small_runs import tiny_cfg

SAMPLES = [{"name": i, "width": 1 + i % 2, "height": 1 + i % 3} for i in range(7)]


def drawing(sample: dict) -> dict:
    """A mapper that draws from every generator."""
    draws = (random.random(), np.random.rand(), torch.rand(1).item())
    return {**sample, "draws": draws}


def order(seed: int):
    for epoch in count():
        yield from np.random.default_rng((seed, epoch)).permutation(len(SAMPLES)).tolist()


def loader(**changes) -> OrderedLoader:
    return OrderedLoader(SAMPLES, drawing, order, **{"seed": 3, "batch_size": 4, **changes})


def take(loader: OrderedLoader, number: int = 6) -> list:
    return list(islice(loader, number))


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(group, workers):
    assert take(loader(group=group, num_workers=workers)) == take(loader(group=group))


@pytest.mark.parametrize("group", [False, True])
def test_it_goes_on_where_it_was(group):
    whole = take(loader(group=group))
    resumed = loader(group=group)
    resumed.first_batch = 4
    assert take(resumed, 2) == whole[4:]


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_each_batch(monkeypatch, group, world):
    whole = take(loader(group=group))
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        shares.append(take(loader(group=group)))
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert sorted(s["draws"] for s in batch) == sorted(s["draws"] for p in parts for s in p)


def test_batches_of_wide_and_of_other_pictures():
    for batch in take(loader(group=True)):
        assert len({sample["width"] > sample["height"] for sample in batch}) == 1


def test_sizes_come_from_the_files_where_samples_lack_them(tmp_path):
    samples = []
    for i, size in enumerate([(20, 10), (10, 20)] * 2):
        Image.new("RGB", size).save(tmp_path / f"{i}.png")
        samples.append({"file_name": str(tmp_path / f"{i}.png"), "wide": size[0] > size[1]})
    grouped = OrderedLoader(
        samples, dict, lambda seed: iter([0, 1, 2, 3]), seed=0, batch_size=2, group=True
    )
    assert [[sample["wide"] for sample in batch] for batch in grouped] == [[True] * 2, [False] * 2]


def test_another_sample_is_drawn_where_a_mapper_gives_none():
    picky = OrderedLoader(SAMPLES, lambda s: None if s["name"] else s, order, seed=0, batch_size=4)
    assert {sample["name"] for batch in take(picky, 2) for sample in batch} == {0}


def test_draws_depend_on_the_key_alone():
    def draw() -> tuple:
        return random.random(), np.random.rand(), torch.rand(1).item()

    reseed(1, 2)
    first = draw()
    with reseeded(5, 6):
        inner = draw()
    second = draw()
    reseed(1, 2)
    assert (draw(), draw()) == (first, second)
    reseed(5, 6)
    assert draw() == inner != first


@pytest.mark.usefixtures("images")
def test_the_sampler_of_detectron2(tmp_path):
    built = build_train_loader(tiny_cfg(tmp_path), dict)
    names = [sample["file_name"] for batch in take(built, 3) for sample in batch]
    assert len(set(names[:3])) == len(set(names[3:])) == built.num_pictures == 3


def test_repeat_factors():
    """Class 1 is in one of four samples, class 0 in three: factors are 2 and sqrt(4 / 3)."""
    rare = [{"annotations": [{"category_id": int(i == 0)}], "index": i} for i in range(4)]
    options = CfgNode({"SAMPLER_TRAIN": "RepeatFactorTrainingSampler", "REPEAT_THRESHOLD": 1.0})
    drawn = list(islice(_order(options, rare)(0), 500))
    assert drawn.count(0) / 500 == pytest.approx(2 / (2 + 3 * (4 / 3) ** 0.5), abs=0.05)


def test_repeat_factors_of_segments_and_of_label_maps(tmp_path):
    """As of annotations: class 1 is in one of four pictures."""
    segments = [{"segments_info": [{"category_id": int(i == 0)}]} for i in range(4)]
    maps = []
    for i in range(4):
        labels = np.full((4, 4), int(i == 0), np.uint8)
        labels[0] = 255
        Image.fromarray(labels).save(tmp_path / f"{i}.png")
        maps.append({"sem_seg_file_name": str(tmp_path / f"{i}.png")})
    options = CfgNode({"SAMPLER_TRAIN": "RepeatFactorTrainingSampler", "REPEAT_THRESHOLD": 1.0})
    rare = [{"annotations": segments[i]["segments_info"]} for i in range(4)]
    expected = list(islice(_order(options, rare)(0), 100))
    assert list(islice(_order(options, segments)(0), 100)) == expected
    assert list(islice(_order(options, maps)(0), 100)) == expected
    with pytest.raises(InputError, match=r"counts classes, of which the sample of image a\.jpg"):
        _order(options, [{"file_name": "a.jpg"}])


def test_segments_are_those_that_are_learnt(tmp_path):
    """Values of label maps stand for classes, and crowds for none."""
    Image.fromarray(np.array([[0, 7, 8, 9]], np.uint8)).save(tmp_path / "a.png")
    values = LabelValues(((0, 0), (7, 1), (8, 300), (9, 255)))
    labels = {"sem_seg_file_name": str(tmp_path / "a.png"), "label_values": values}
    assert [each["category_id"] for each in _segments(labels, 255)] == [0, 1, 300]

    color = Image.new("RGB", (1, 1), (0, 1, 0))
    color.save(tmp_path / "b.png")
    values = LabelValues(((256, 3),), colors=True)
    colors = {"sem_seg_file_name": str(tmp_path / "b.png"), "label_values": values}
    assert _segments(colors, 255) == [{"category_id": 3}]

    found = [{"category_id": 2, "iscrowd": 0}, {"category_id": 0, "iscrowd": 1}]
    assert _segments({"segments_info": found}, 255) == [{"category_id": 2}]


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mine", "SAMPLER_TRAIN is 'Mine'; give TrainingSampler"),
        ("RepeatFactorTrainingSampler", r"REPEAT_THRESHOLD is 0, .* for example 0\.001"),
    ],
)
def test_samplers_that_cannot_be_had(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        build_train_loader(tiny_cfg(tmp_path, {"DATALOADER.SAMPLER_TRAIN": name}), dict)


@pytest.mark.usefixtures("images")
def test_what_a_loader_asserts_is_told(tmp_path, monkeypatch):
    cfg = tiny_cfg(tmp_path)
    monkeypatch.setitem(DatasetCatalog.data, "camvid_sem_seg_train", list)
    with pytest.raises(InputError, match=r"camvid_sem_seg_train cannot be loaded: .* is empty!"):
        build_train_loader(cfg, dict)
