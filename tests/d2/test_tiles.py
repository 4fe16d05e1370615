"""Laws of tiles: what a picture has in one piece, it has in several."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from scipy import ndimage

from mask_former.d2.errors import InputError
from mask_former.d2.tiles import spans, tiled_result
from mask_former.structures import InferenceOptions
from tests.d2.tiny_models import BASELINE, MASK_FORMER, image, make_cfg, make_model

ROOT = Path(__file__).parents[2]
ALL = InferenceOptions(semantic=True, panoptic=True, instance=True, tiles=(32, 16))
EACH = {f"{MASK_FORMER}.TEST.{kind}_ON": True for kind in ("SEMANTIC", "PANOPTIC", "INSTANCE")}
EACH["DATASETS.TRAIN"] = ["tiles_test"]


@pytest.fixture(autouse=True)
def things():
    from detectron2.data import MetadataCatalog

    MetadataCatalog.get("tiles_test").thing_dataset_id_to_contiguous_id = {1: 0, 2: 1}
    yield
    MetadataCatalog.remove("tiles_test")


def test_spans_by_hand():
    first, middle, last = spans(10, 20, side=4, overlap=1)
    assert [span.source for span in (first, middle, last)] == [
        slice(0, 4),
        slice(3, 7),
        slice(6, 10),
    ]
    assert middle[1:5] == (6, 14, 2, 12)  # start, stop, shared with the first, start of the last
    assert [span.owned for span in (first, middle, last)] == [
        slice(0, 7),
        slice(7, 13),
        slice(13, 20),
    ]
    # Tents: the first falls from 1.5 to 0.5 where the second rises from 0.5 to 1.5.
    assert first.shares.tolist() == pytest.approx([1.0] * 6 + [0.75, 0.25])
    assert middle.shares.tolist() == pytest.approx([0.25, 0.75, 1, 1, 1, 1, 0.75, 0.25])


@pytest.mark.parametrize(("side", "overlap"), [(8, 0), (8, 3), (9, 7), (20, 1)])
@pytest.mark.parametrize(
    ("length", "output"), [(8, 8), (9, 9), (31, 31), (31, 17), (31, 70), (40, 2)]
)
def test_every_pixel_is_in_the_tiles_with_a_share_of_one(length, output, side, overlap):
    found = spans(length, output, side, overlap)
    assert (found[0].source.start, found[-1].source.stop) == (0, length)
    assert all(a.source.stop - b.source.start >= overlap for a, b in pairwise(found))
    total, owners = torch.zeros(output), torch.zeros(output)
    for span in found:
        total[span.start : span.stop] += span.shares
        owners[span.owned] += 1
        assert span.start <= span.owned.start <= span.owned.stop <= span.stop
    torch.testing.assert_close(total, torch.ones(output))
    assert owners.eq(1).all()


@pytest.mark.parametrize("output", ["scores", "labels"])
@torch.no_grad()
def test_one_tile_that_covers_the_picture_is_the_plain_result_bit_for_bit(output):
    options = {**EACH, f"{MASK_FORMER}.TEST.SEM_SEG_OUTPUT": output}
    batch = [image(60, 50, height=30, width=45), image(64, 40, seed=1)]
    plain = make_model(options).eval()(batch)
    tiled = make_model({**options, f"{MASK_FORMER}.TEST.TILES": [64, 16]}).eval()(batch)
    for found, expected in zip(tiled, plain, strict=True):
        assert torch.equal(found["sem_seg"], expected["sem_seg"])
        assert torch.equal(found["panoptic_seg"][0], expected["panoptic_seg"][0])
        assert found["panoptic_seg"][1] == expected["panoptic_seg"][1]
        assert torch.equal(found["instances"].pred_masks, expected["instances"].pred_masks)
        assert torch.equal(found["instances"].scores, expected["instances"].scores)


@torch.no_grad()
def test_content_that_repeats_has_the_same_answer_in_each_tile():
    block = image(48, 48)["image"]
    picture = {"image": block.repeat(1, 4, 4)[:, :160, :160]}
    tiles = {f"{MASK_FORMER}.TEST.TILES": [64, 16], **EACH}
    model = make_model(tiles).eval()
    (scores,) = model([picture])
    labels_of = make_model({**tiles, f"{MASK_FORMER}.TEST.SEM_SEG_OUTPUT": "labels"}).eval()
    (labels,) = labels_of([picture])
    middle, last = slice(48, 96), slice(96, 144)
    assert torch.equal(scores["sem_seg"][:, middle, middle], scores["sem_seg"][:, last, last])
    assert torch.equal(
        scores["sem_seg"][:, :48, :48][:, 16:32, 16:32], scores["sem_seg"][:, 64:80, 112:128]
    )
    assert torch.equal(labels["sem_seg"], scores["sem_seg"].argmax(dim=0))
    ids, segments = scores["panoptic_seg"]
    category = torch.tensor([-1, *(segment["category_id"] for segment in segments)])[ids.long()]
    assert torch.equal(category[middle, middle], category[last, last])
    assert scores["instances"].pred_masks.shape[1:] == (160, 160)


def pixelwise(sample):
    """A model that looks at pixels: scores are the colours, things the connected red parts."""
    colors = sample["image"]
    assert colors.shape[1:] == (sample["height"], sample["width"])
    numbers, n = ndimage.label(colors[0].numpy() > 128)
    ids = torch.from_numpy(numbers.astype(np.int32))
    masks = ids == torch.arange(1, n + 1)[:, None, None]
    scores = [0.5 + 0.4 * mask.float().mean().item() for mask in masks]
    segments = [segment(i + 1, True, 1, scores[i], masks[i]) for i in range(n)]
    if (ids == 0).any():
        segments.append(segment(n + 1, False, 0, 0.9, ids == 0))
        ids = ids.masked_fill(ids == 0, n + 1)
    boxes = [[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(numbers)]
    instances = Instances(
        tuple(ids.shape),
        pred_masks=masks,
        pred_boxes=Boxes(torch.tensor(boxes).float().reshape(-1, 4)),
        scores=torch.tensor(scores),
        pred_classes=torch.ones(n, dtype=torch.int64),
    )
    return {"sem_seg": colors.float(), "panoptic_seg": (ids, segments), "instances": instances}


def segment(number, isthing, category, score, mask):
    area = int(mask.sum())
    return {"id": number, "isthing": isthing, "category_id": category, "score": score, "area": area}


def discs():
    """Red discs on noise that is not red: within tiles, across two and four, as large as three."""
    random = np.random.RandomState(0)
    picture = random.randint(0, 128, (3, 100, 130))
    y, x = np.ogrid[:100, :130]
    for row, column, radius in [(8, 8, 5), (22, 60, 12), (80, 40, 10), (55, 95, 25), (95, 125, 3)]:
        picture[0][(y - row) ** 2 + (x - column) ** 2 <= radius**2] = 200
    return {"image": torch.from_numpy(picture)}


def test_a_model_that_looks_at_pixels_gives_the_same_with_tiles():
    picture = discs()
    expected = pixelwise({**picture, "height": 100, "width": 130})
    found = tiled_result(pixelwise, picture, (100, 130), ALL)
    torch.testing.assert_close(found["sem_seg"], expected["sem_seg"])
    (ids, segments), (true_ids, true_segments) = found["panoptic_seg"], expected["panoptic_seg"]
    pairs = torch.stack([ids, true_ids]).flatten(1).unique(dim=1).T.tolist()
    assert len(pairs) == len(segments) == len(true_segments) == 6
    for one, other in pairs:
        found_one, true_one = segments[one - 1], true_segments[other - 1]
        assert found_one["id"] == one
        assert found_one["area"] == true_one["area"]
        assert found_one["category_id"] == true_one["category_id"]
    instances, true = found["instances"], expected["instances"]
    assert len(instances) == 5
    assert instances.scores.tolist() == sorted(instances.scores.tolist(), reverse=True)
    for mask, box in zip(instances.pred_masks, instances.pred_boxes.tensor, strict=True):
        (same,) = (true.pred_masks == mask).all(dim=2).all(dim=1).nonzero()[0].tolist()
        assert torch.equal(true.pred_boxes.tensor[same], box)


def test_labels_are_those_of_the_scores_at_another_size():
    def resized(sample):
        size = sample["height"], sample["width"]
        maps = sample["image"][None].float()
        return {"sem_seg": torch.nn.functional.interpolate(maps, size=size, mode="nearest")[0]}

    options = InferenceOptions(tiles=(32, 8))
    scores = tiled_result(resized, discs(), (61, 190), options)["sem_seg"]
    labels = tiled_result(resized, discs(), (61, 190), options._replace(semantic_labels=True))
    assert scores.shape == (3, 61, 190)
    assert torch.equal(labels["sem_seg"], scores.argmax(dim=0))


def test_the_best_instances_of_the_picture_are_kept():
    every = tiled_result(pixelwise, discs(), (100, 130), ALL)["instances"]
    best = tiled_result(pixelwise, discs(), (100, 130), ALL._replace(max_instances=2))["instances"]
    assert torch.equal(best.pred_masks, every.pred_masks[:2])
    nothing = {"image": torch.zeros(3, 40, 40)}
    assert len(tiled_result(pixelwise, nothing, (40, 40), ALL)["instances"]) == 0


def halves(categories, right_from):
    """A model that sees one thing in each of two tiles of a picture 48 wide; of which classes."""
    calls = iter(range(2))

    def model(sample):
        which = next(calls)
        mask = torch.zeros(32, 32, dtype=torch.bool)
        mask[:, slice(16, 32) if which == 0 else slice(right_from, 16)] = True
        ids = mask.int()
        instances = Instances(
            (32, 32),
            pred_masks=mask[None],
            pred_boxes=Boxes(
                torch.tensor(
                    [[16.0 if which == 0 else right_from, 0, 32 if which == 0 else 16, 32]]
                )
            ),
            scores=torch.tensor([0.9]),
            pred_classes=torch.tensor([categories[which]]),
        )
        segments = [segment(1, True, categories[which], 0.9, mask)]
        return {"panoptic_seg": (ids, segments), "instances": instances}

    return model


@pytest.mark.parametrize(
    ("categories", "right_from", "joined"),
    [((1, 1), 0, True), ((1, 2), 0, False), ((1, 1), 7, True), ((1, 1), 9, False)],
)
def test_masks_are_joined_if_their_class_and_more_than_half_of_the_overlap_agree(
    categories, right_from, joined
):
    picture = {"image": torch.zeros(3, 32, 48)}
    options = ALL._replace(semantic=False)
    found = tiled_result(halves(categories, right_from), picture, (32, 48), options)
    ids, segments = found["panoptic_seg"]
    assert len(segments) == (1 if joined else 2)
    assert sum(s["area"] for s in segments) == int((ids > 0).sum())
    assert len(found["instances"]) == (1 if joined else 2)


@pytest.mark.parametrize("tiles", [[64], [64, 64], [0, 8], [-1, 0], [64, 1.5], [32, 8, 8]])
def test_what_is_no_side_and_overlap_is_refused(tiles):
    with pytest.raises(InputError, match=r"TEST\.TILES"):
        make_model({f"{MASK_FORMER}.TEST.TILES": tiles})


def test_detectron2s_architecture_knows_no_tiles():
    with pytest.raises(InputError, match=r"TILES is \[64, 8\], which .*SemanticSegmentor"):
        make_model({**BASELINE, f"{MASK_FORMER}.TEST.TILES": [64, 8]})


def test_tiles_are_off_by_default():
    assert make_cfg({}).MODEL.MASK_FORMER.TEST.TILES == [0, 0]


BIG = """
import resource, sys, numpy as np, torch
sys.path[:0] = {path!r}
from mask_former.d2.build.model import build_model
from mask_former.d2.fuse_norms import optimize_for_inference
from tests.d2.tiny_models import BASELINE, MASK_FORMER, NARROW, make_cfg
torch.set_num_threads(2)
test = f"{{MASK_FORMER}}.TEST."
options = {{test + "TILES": [1024, 128], test + "SEM_SEG_OUTPUT": "labels"}}
model = optimize_for_inference(build_model(make_cfg(options, NARROW)))
picture = np.random.RandomState(0).randint(0, 256, (12000, 12000, 3), np.uint8)
with torch.no_grad():
    (result,) = model([{{"image": torch.from_numpy(picture).permute(2, 0, 1)}}])
assert result["sem_seg"].shape == (12000, 12000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.nightly
def test_a_picture_of_12000_pixels_a_side_as_labels_within_3_gigabytes():
    code = BIG.format(path=[str(ROOT)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 3 * 1024
