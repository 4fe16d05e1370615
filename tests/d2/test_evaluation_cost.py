"""What an evaluation computes, keeps and reads from the device, and what it leaves out."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.host_reads import HostReads
from tests.d2.tiny_models import HEAD, MASK_FORMER, image, make_model


def flops(model, *inputs):
    """Of an evaluation, by the kind of operator."""
    with FlopCounterMode(display=False) as counter:
        model.eval().requires_grad_(False)(list(inputs))
    counts = counter.get_flop_counts()["Global"].items()
    return {
        kind: sum(n for op, n in counts if kind in str(op)) for kind in ("bmm", "convolution", "mm")
    }


def touch(model):
    """A hook that changes nothing, but that no shortcut may leave out."""
    model.sem_seg_head.pixel_decoder.mask_features.register_forward_hook(lambda *_: None)


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
    touch(model)
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
    touch(model)
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
def test_how_often_results_wait_for_the_device():
    """Once for all images, then once an image for segments and for instances; else never."""
    things = {"DATASETS.TRAIN": "('shapes_panoptic_train',)", f"{HEAD}.NUM_CLASSES": 7}
    for kinds, expected in (
        (["SEMANTIC"], 0),
        (["SEMANTIC", "PANOPTIC"], 1 + 2),
        (["INSTANCE"], 1 + 2),
        (["SEMANTIC", "PANOPTIC", "INSTANCE"], 1 + 2 * 2),
    ):
        keys = {f"{MASK_FORMER}.TEST.SEMANTIC_ON": "SEMANTIC" in kinds}
        keys |= {f"{MASK_FORMER}.TEST.{kind}_ON": True for kind in kinds}
        model = make_model(keys | things).eval()
        with HostReads() as reads:
            results = model([image(50, 64), image(64, 37)])
        assert len(results) == 2
        assert reads.count == expected, kinds
