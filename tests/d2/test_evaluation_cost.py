"""What an evaluation computes, keeps and reads from the device, and what it leaves out."""

import weakref

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.host_reads import HostReads
from mask_former.functional import banding
from tests.d2.tiny_models import HEAD, MASK_FORMER, image, make_model


def flops(model, *inputs):
    """Of an evaluation, by the kind of operator."""
    with FlopCounterMode(display=False) as counter:
        model.eval().requires_grad_(False)(list(inputs))
    counts = counter.get_flop_counts()["Global"].items()
    return {
        kind: sum(n for op, n in counts if kind in str(op)) for kind in ("bmm", "convolution", "mm")
    }


@torch.no_grad()
def test_evaluation_forms_no_auxiliary_masks():
    """One set of masks, whatever the number of decoder layers."""
    few, many = (
        flops(make_model({f"{MASK_FORMER}.DEC_LAYERS": layers}), image(64, 64)) for layers in (2, 5)
    )
    assert few["convolution"] == many["convolution"]
    # What three more layers add is attention alone: each far less than a product of masks.
    mask_product = 2 * 8 * 32 * 16 * 16  # queries, channels, pixels at stride 4
    assert many["bmm"] - few["bmm"] < mask_product


@torch.no_grad()
def test_evaluation_forms_no_embeddings():
    """The last convolution has as many outputs as there are queries, not channels."""
    counts = {}
    for queries in (8, 24):
        model = make_model({f"{MASK_FORMER}.NUM_OBJECT_QUERIES": queries})
        counts[queries] = flops(model, image(64, 64))["convolution"]
    per_output = 2 * 32 * 9 * 16 * 16
    assert counts[24] - counts[8] == (24 - 8) * per_output
    model.sem_seg_head.last_convolution = lambda: None
    assert flops(model, image(64, 64))["convolution"] - counts[24] == (32 - 24) * per_output


@torch.no_grad()
@pytest.mark.parametrize("valid_mask", [False, True])
@pytest.mark.parametrize("queries", [8, 40])  # less than the channels of the embedding, and more
@pytest.mark.parametrize("semantic", [False, True])
def test_results_without_embeddings_are_those_with_them(valid_mask, queries, semantic):
    keys = {"PANOPTIC_ON": True, "INSTANCE_ON": True, "SEMANTIC_ON": semantic}
    model = make_model(
        {f"{MASK_FORMER}.TEST.{key}": value for key, value in keys.items()}
        | {f"{MASK_FORMER}.NUM_OBJECT_QUERIES": queries, f"{MASK_FORMER}.VALID_MASK": valid_mask}
        | {"DATASETS.TRAIN": "('shapes_panoptic_train',)", f"{HEAD}.NUM_CLASSES": 7}
    )
    model.double().eval()
    model.sem_seg_head.predictor.class_embed.bias[-1] = -5.0  # "no object"
    inputs = [image(50, 64, seed=1), image(64, 37, seed=2, height=80, width=61)]
    direct = model(inputs)
    model.sem_seg_head.last_convolution = lambda: None
    for mine, expected in zip(direct, model(inputs), strict=True):
        assert ("sem_seg" in mine) == semantic
        if semantic:
            torch.testing.assert_close(mine["sem_seg"], expected["sem_seg"])
        ids, segments = mine["panoptic_seg"]
        assert torch.equal(ids, expected["panoptic_seg"][0])
        assert len(segments) == len(expected["panoptic_seg"][1]) > 0
        assert torch.equal(mine["instances"].pred_masks, expected["instances"].pred_masks)
        torch.testing.assert_close(mine["instances"].scores, expected["instances"].scores)


@torch.no_grad()
def test_features_are_freed_as_they_are_used():
    model, seen, held = make_model().eval(), {}, []

    def find(_, args, features):
        seen.update({name: weakref.ref(x) for name, x in features.items()})

    def note(*_):
        held.append([name for name, x in seen.items() if x() is not None])

    model.backbone.register_forward_hook(find)
    decoder = model.sem_seg_head.pixel_decoder
    decoder.layer_2.register_forward_pre_hook(note)
    decoder.layer_1.register_forward_pre_hook(note)
    model([image(64, 64)])
    assert held == [["res2", "res5"], ["res5"]]


@torch.no_grad()
def test_all_results_of_an_image_wait_once_for_the_device(monkeypatch):
    monkeypatch.setattr(banding, "reading_is_free", lambda _: False)
    keys = {f"{MASK_FORMER}.TEST.{kind}_ON": True for kind in ("SEMANTIC", "PANOPTIC", "INSTANCE")}
    things = {"DATASETS.TRAIN": "('shapes_panoptic_train',)", f"{HEAD}.NUM_CLASSES": 7}
    model = make_model(keys | things).eval()
    with HostReads() as reads:
        results = model([image(50, 64), image(64, 37)])
    assert [set(result) for result in results] == 2 * [{"sem_seg", "panoptic_seg", "instances"}]
    assert reads.count == len(results)
