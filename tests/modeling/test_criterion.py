"""The criterion against a plain reference, one layer and image at a time, and laws."""

import logging
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from mask_former.structures import LossWeights, MaskPrediction, MaskTarget
from tests.modeling.criterion_cases import CLASSES, WEIGHTS, gradients, make_criterion, random_case


def reference_losses(prediction, targets, weights, no_object_weight=0.1):
    """Section 3.2 literally: one matcher call per layer and image, all masks of a layer."""
    layers, images, queries, _ = prediction.class_logits.shape
    num_masks = max(sum(len(t.labels) for t in targets), 1)
    class_weights = torch.ones(CLASSES + 1, dtype=prediction.class_logits.dtype)
    class_weights[-1] = torch.tensor(no_object_weight)  # as float32 keeps it
    losses = {}
    for layer in range(layers):
        suffix = "" if layer == layers - 1 else f"_{layer}"
        masks = prediction.mask_logits(layer)
        classes = torch.full((images, queries), CLASSES)
        focal = dice = masks.sum() * 0
        for b, target in enumerate(targets):
            logits = prediction.class_logits[layer, b]
            small = F.interpolate(target.masks[:, None].to(masks), masks.shape[-2:])[:, 0]
            cost = torch.zeros(queries, len(target.labels))
            for q in range(queries):
                for n, g in enumerate(small):
                    f, d = pair_losses(masks[b, q], g)
                    cost[q, n] = (
                        weights.mask * f
                        - weights.classification * logits.softmax(-1)[q, target.labels[n]]
                        + weights.dice * d
                    )
            for q, n in zip(*linear_sum_assignment(cost.detach().numpy()), strict=True):
                classes[b, q] = target.labels[n]
                large = F.interpolate(
                    masks[b, q][None, None], target.masks.shape[-2:], mode="bilinear"
                )[0, 0]
                f, d = pair_losses(large, target.masks[n].to(masks))
                focal, dice = focal + f, dice + d
        losses["loss_ce" + suffix] = weights.classification * F.cross_entropy(
            prediction.class_logits[layer].transpose(1, 2), classes, class_weights
        )
        losses["loss_mask" + suffix] = weights.mask * focal / num_masks
        losses["loss_dice" + suffix] = weights.dice * dice / num_masks
    return losses


def pair_losses(logits, mask):
    p = logits.sigmoid()
    bce = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    p_t, alpha_t = p * mask + (1 - p) * (1 - mask), 0.25 * mask + 0.75 * (1 - mask)
    dice = 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)
    return (alpha_t * (1 - p_t) ** 2 * bce).mean(), dice


@pytest.mark.parametrize("segments", [[3, 2], [1, 0], [0, 0], [7, 4]])
def test_losses_and_gradients_are_those_of_the_reference(segments):
    prediction, targets = random_case(segments)
    losses = make_criterion()(prediction, targets)
    expected = reference_losses(prediction, targets, WEIGHTS)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert float(loss.detach()) == pytest.approx(
            float(expected[name].detach()), rel=1e-9, abs=1e-12
        ), name
    for ours, theirs in zip(
        gradients(losses, prediction), gradients(expected, prediction), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_published_micro_example():
    masks = torch.tensor(
        [[[2.0, -2.0], [2.0, -2.0]], [[-1.0, 1.0], [-1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]
    )
    class_logits = torch.tensor([[[[1.0, 0, 0], [0, 2.0, 0], [0, 0, 1.0]]]])
    prediction = MaskPrediction(class_logits, torch.eye(3)[None, None], masks[None])
    left = torch.zeros(4, 4, dtype=torch.bool)
    left[:, :2] = True
    target = MaskTarget(torch.tensor([1, 0]), torch.stack([~left, left]))
    losses = make_criterion(LossWeights(), classes=2)(prediction, [target])
    assert float(losses["loss_ce"]) == pytest.approx(0.40292093, abs=1e-6)
    assert float(losses["loss_mask"]) / 20 == pytest.approx(0.01433665, abs=1e-7)
    assert float(losses["loss_dice"]) == pytest.approx(0.24344149, abs=1e-6)


def test_without_segments_the_mask_losses_are_zero_but_connected():
    prediction, targets = random_case([0, 0])
    losses = make_criterion()(prediction, targets)
    assert all(float(v.detach()) == 0 for k, v in losses.items() if not k.startswith("loss_ce"))
    mask_only = {k: v for k, v in losses.items() if not k.startswith("loss_ce")}
    for grad in torch.autograd.grad(sum(mask_only.values()), prediction[1:3]):
        assert torch.count_nonzero(grad) == 0


def test_only_matched_queries_get_a_mask_gradient():
    prediction, targets = random_case([2, 1])
    criterion = make_criterion()
    losses = criterion(prediction, targets)
    (grad,) = torch.autograd.grad(losses["loss_mask_1"], prediction.mask_embed)
    matches = criterion.matcher(prediction, targets)
    matched = {
        (int(layer), int(b), int(q))
        for layer, b, q in zip(matches.layer, matches.image, matches.query, strict=True)
        if layer == 1
    }
    assert {tuple(i) for i in grad.abs().sum(-1).nonzero().tolist()} == matched


def test_mask_logits_with_gradients_exist_for_matched_queries_only():
    """No tensor kept for the backward pass is larger than the matched masks at full size."""
    prediction, targets = random_case([2, 1], layers=2, queries=50)
    largest = 0

    def record(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        make_criterion()(prediction, targets)
    matched_of_one_image = 2 * 2
    assert largest <= matched_of_one_image * 16 * 20
    assert largest < prediction.mask_logits().numel()


def test_batch_order_does_not_matter():
    prediction, targets = random_case([3, 2])
    swapped = MaskPrediction(
        prediction.class_logits.flip(1),
        prediction.mask_embed.flip(1),
        prediction.pixel_embed.flip(0),
    )
    losses = make_criterion()(prediction, targets)
    others = make_criterion()(swapped, targets[::-1])
    for name in losses:
        assert losses[name].item() == pytest.approx(others[name].item(), rel=1e-12)


def test_order_of_queries_and_segments_does_not_matter():
    prediction, targets = random_case([3])
    order = torch.tensor([4, 2, 0, 1, 3])
    permuted = MaskPrediction(
        prediction.class_logits[:, :, order],
        prediction.mask_embed[:, :, order],
        prediction.pixel_embed,
    )
    flipped = [MaskTarget(targets[0].labels.flip(0), targets[0].masks.flip(0))]
    losses = make_criterion()(prediction, targets)
    others = make_criterion()(permuted, flipped)
    for name in losses:
        assert losses[name].item() == pytest.approx(others[name].item(), rel=1e-12)


def test_a_single_layer_has_no_auxiliary_losses():
    prediction, targets = random_case([2], layers=1)
    assert set(make_criterion()(prediction, targets)) == {"loss_ce", "loss_mask", "loss_dice"}


def test_more_segments_than_queries_is_said_once(caplog):
    prediction, targets = random_case([7], queries=5)
    criterion = make_criterion()
    with caplog.at_level(logging.WARNING):
        criterion(prediction, targets)
        criterion(prediction, targets)
    assert len(caplog.messages) == 1
    assert "7 segments" in caplog.text
    assert "5 queries" in caplog.text


def test_empty_weight_is_saved_and_loaded():
    criterion = make_criterion(no_object_weight=0.25)
    assert criterion.state_dict()["empty_weight"].tolist() == [1, 1, 1, 0.25]
    other = make_criterion(no_object_weight=0.9)
    other.load_state_dict(criterion.state_dict())
    prediction, targets = random_case([2])
    ours, theirs = criterion(prediction, targets), other(prediction, targets)
    assert float(ours["loss_ce"]) == float(theirs["loss_ce"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_scored_in_float32(dtype):
    prediction, targets = random_case([2, 3], dtype=torch.float32)
    half = MaskPrediction(*(x.detach().to(dtype).requires_grad_() for x in prediction[:3]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = make_criterion()(half, targets)
    exact = MaskPrediction(*(x.detach().float().requires_grad_() for x in half[:3]))
    expected = make_criterion()(exact, targets)
    for name in losses:
        assert losses[name].dtype == torch.float32
        assert float(losses[name]) == pytest.approx(float(expected[name]), rel=1e-6)


def _losses_of_rank(rank, folder, segments):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=len(segments)
    )
    prediction, targets = random_case(segments[rank], seed=rank)
    losses = make_criterion()(prediction, targets)
    torch.save({k: float(v) for k, v in losses.items()}, os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.mark.parametrize("segments", [[[3, 2], [1, 0]], [[0], [1]], [[0], [0]]])
def test_the_mean_over_ranks_is_the_loss_of_the_joint_batch(tmp_path, segments):
    """Two processes: segments and class weights are counted over both."""
    mp.spawn(_losses_of_rank, args=(str(tmp_path), segments), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    cases = [random_case(counts, seed=rank) for rank, counts in enumerate(segments)]
    (first, _), (second, _) = cases
    joint = MaskPrediction(
        torch.cat([first.class_logits, second.class_logits], dim=1),
        torch.cat([first.mask_embed, second.mask_embed], dim=1),
        torch.cat([first.pixel_embed, second.pixel_embed]),
    )
    expected = make_criterion()(joint, [target for _, targets in cases for target in targets])
    for name, loss in expected.items():
        mean = sum(losses[name] for losses in found) / 2
        assert mean == pytest.approx(float(loss), rel=1e-9), name


def test_no_segment_and_no_weight_of_no_object_is_no_loss():
    prediction, targets = random_case([0, 0])
    losses = make_criterion(no_object_weight=0.0)(prediction, targets)
    assert {float(loss.detach()) for loss in losses.values()} == {0.0}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_and_masks_of_floats(dtype):
    prediction, targets = random_case([3, 2])
    given = [t._replace(labels=t.labels.to(dtype), masks=t.masks.float()) for t in targets]
    expected = make_criterion()(prediction, targets)
    for name, loss in make_criterion()(prediction, given).items():
        assert torch.equal(loss, expected[name])


def wrong(case):
    """A batch of two images with one thing that does not fit."""
    prediction, targets = random_case([3, 2])
    height = targets[0].masks.shape[-2]
    if case == "label":
        labels = torch.full_like(targets[1].labels, prediction.class_logits.shape[-1] - 1)
        targets[1] = targets[1]._replace(labels=labels)
    elif case == "negative label":
        targets[1] = targets[1]._replace(labels=targets[1].labels - 9)
    elif case == "one size":
        targets[1] = targets[1]._replace(masks=targets[1].masks[:, :-1])
    elif case == "all sizes":
        targets = [t._replace(masks=t.masks[:, : height - 5]) for t in targets]
    elif case == "layers":
        prediction = prediction._replace(class_logits=prediction.class_logits[-1])
    elif case == "classes":
        prediction = prediction._replace(class_logits=prediction.class_logits[..., :-1])
    elif case == "targets":
        targets = targets[:1]
    elif case == "empty batch":
        prediction = MaskPrediction(
            prediction.class_logits[:, :0], prediction.mask_embed[:, :0], prediction.pixel_embed[:0]
        )
        targets = []
    return prediction, targets


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("label", "image 1 of the batch has a segment of class 3, but the classes are 0 to 2"),
        ("negative label", "image 1 of the batch has a segment of class -"),
        ("one size", "the masks of target 1 are .*: pad masks to the one size of the batch"),
        ("all sizes", "the masks of target 0 are .*: pad masks to the one size of the batch"),
        ("layers", r"class logits must be \[L, B, Q, K\+1\] .*; of a single layer, take x\[None\]"),
        ("classes", "the criterion has 3 classes, so class logits need 4 columns"),
        ("targets", "got 1 targets for 2 images; each needs one"),
        ("empty batch", "got 0 targets for 0 images"),
    ],
)
def test_what_does_not_fit_is_told(case, told):
    with pytest.raises(ValueError, match=told):
        make_criterion()(*wrong(case))
