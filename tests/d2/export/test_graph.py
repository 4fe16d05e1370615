"""The graph gives the model's results, before it is exported."""

import pytest
import torch
from torch import nn

from mask_former.d2.errors import InputError
from mask_former.d2.export.graph import OUTPUTS, ExportedModel, default_task
from tests.d2.tiny_models import BASELINE, HEAD, MASK_FORMER, PLUS, SWIN, WITH_ENCODER, make_cfg

TEST = f"{MASK_FORMER}.TEST"
SEGMENTS = {
    f"{TEST}.PANOPTIC_ON": True,
    f"{TEST}.INSTANCE_ON": True,
    "DATASETS.TRAIN": ("shapes_panoptic_train",),
    f"{HEAD}.NUM_CLASSES": 7,
}
VALID = {f"{MASK_FORMER}.VALID_MASK": True, f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "res4"}
KINDS = {
    "R": {},
    "swin": SWIN,
    "encoder": WITH_ENCODER,
    "valid": VALID,
    "baseline": BASELINE,
    "plus": PLUS,
    "first": {f"{TEST}.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": True},
    "general": {f"{TEST}.SEMANTIC_INFERENCE": "general"},
    "undivided": {f"{MASK_FORMER}.SIZE_DIVISIBILITY": 0},
}
SIZE, OUTPUT = (75, 109), (60, 90)


def images(count=2):
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=g)


def eager(model, batch):
    return model([{"image": x, "height": OUTPUT[0], "width": OUTPUT[1]} for x in batch])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_semantic(make, kind):
    model, batch = make(KINDS[kind]), images()
    labels, scores = ExportedModel(model, "semantic").eval()(batch, *OUTPUT)
    for i, expected in enumerate(eager(model, batch)):
        torch.testing.assert_close(scores[i], expected["sem_seg"].amax(dim=0), rtol=1e-4, atol=1e-4)
        assert (labels[i] == expected["sem_seg"].argmax(dim=0)).float().mean() > 0.999
    assert labels.dtype == torch.int32


@pytest.mark.parametrize("options", [SEGMENTS, {**SEGMENTS, **VALID}], ids=["plain", "valid"])
@torch.no_grad()
def test_segments_and_instances(make, options):
    model, batch = make(options), images()
    results = eager(model, batch)
    ids, classes, _, areas = ExportedModel(model, "panoptic").eval()(batch, *OUTPUT)
    masks, labels, scores, _ = ExportedModel(model, "instance").eval()(batch, *OUTPUT)
    for i, result in enumerate(results):
        expected, infos = result["panoptic_seg"]
        assert (ids[i] == expected).float().mean() > 0.999
        n = len(infos)
        assert classes[i, :n].tolist() == [info["category_id"] for info in infos]
        assert (areas[i, :n] - torch.tensor([info["area"] for info in infos])).abs().max() < 5
        instances = result["instances"]
        n = len(instances)
        torch.testing.assert_close(scores[i, :n], instances.scores, rtol=1e-3, atol=1e-4)
        assert (labels[i, :n] == instances.pred_classes).float().mean() > 0.9
        assert masks.shape[2:] == OUTPUT


@torch.no_grad()
def test_raw(make):
    model, batch = make({}), images()
    class_logits, mask_logits = ExportedModel(model, "raw").eval()(batch, *OUTPUT)
    assert class_logits.shape == (2, 5, 4)
    assert mask_logits.shape == (2, 5, 24, 32)
    per_pixel = ExportedModel(make(BASELINE), "raw").eval()
    assert [x.shape for x in per_pixel(batch, *OUTPUT)] == [
        (2, 3, 76, 112)
    ]  # its backbone asks for no padding
    assert OUTPUTS[per_pixel.kind] == ("class_logits",)


@torch.no_grad()
def test_half_a_network_gives_a_whole_result(make):
    model, batch = make({}), images()
    expected = ExportedModel(model, "raw").eval()(batch, *OUTPUT)
    found = ExportedModel(model, "raw", half=True).eval()(batch, *OUTPUT)
    network = [*model.backbone.parameters(), *model.sem_seg_head.parameters()]
    assert {x.dtype for x in network} == {torch.float16}
    assert {x.dtype for x in found} == {torch.float32}
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() < 0.05 * b.abs().max()


def test_the_task_of_a_configuration():
    assert default_task(make_cfg({})) == "semantic"
    assert default_task(make_cfg(BASELINE)) == "semantic"
    assert default_task(make_cfg(SEGMENTS)) == "panoptic"
    assert default_task(make_cfg({**SEGMENTS, f"{TEST}.PANOPTIC_ON": False})) == "instance"


def test_what_cannot_be_exported(make):
    with pytest.raises(InputError, match=r"META_ARCHITECTURE is Identity; models of MaskFormer"):
        ExportedModel(nn.Identity(), "semantic")
    with pytest.raises(InputError, match=r"--task is panoptic, but a per-pixel baseline"):
        ExportedModel(make(BASELINE), "panoptic")
