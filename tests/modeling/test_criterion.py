"""The criterion against a plain reference (spec 5.2, one layer and image at a time), and laws."""

import logging
import os
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch.utils._python_dispatch import TorchDispatchMode

from mask_former.functional.matching import bipartite_matching, fixed_matching
from mask_former.functional.points import PointOptions
from mask_former.modeling.criterion import SetCriterion
from mask_former.structures import LossWeights, MaskPrediction, MaskTarget

WEIGHTS = LossWeights(2.0, 20.0, 5.0)
CLASSES = 3


def make_criterion(weights=WEIGHTS, classes=CLASSES, no_object_weight=0.1, points=None):
    return SetCriterion(
        num_classes=classes,
        matcher=lambda prediction, targets: bipartite_matching(prediction, targets, weights),
        weights=weights,
        no_object_weight=no_object_weight,
        points=points,
    )


def random_case(segments, layers=3, queries=5, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    images, dim, size = len(segments), 6, (4, 5)

    def leaf(*shape):
        return (2 * torch.randn(*shape, generator=g)).to(dtype).requires_grad_()

    prediction = MaskPrediction(
        leaf(layers, images, queries, CLASSES + 1),
        leaf(layers, images, queries, dim),
        leaf(images, dim, *size),
    )
    targets = [
        MaskTarget(
            torch.randint(0, CLASSES, (n,), generator=g), torch.rand(n, 16, 20, generator=g) < 0.4
        )
        for n in segments
    ]
    return prediction, targets


def reference_losses(prediction, targets, weights, no_object_weight=0.1):
    """Spec 5.1 and 5.2 literally: one matcher call per layer and image, all masks of a layer."""
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


def gradients(losses, prediction):
    return torch.autograd.grad(sum(losses.values()), list(prediction))


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
    for grad in torch.autograd.grad(sum(mask_only.values()), list(prediction)[1:]):
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


def test_padding_and_batch_order_do_not_matter():
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
    half = MaskPrediction(*(x.detach().to(dtype).requires_grad_() for x in prediction))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = make_criterion()(half, targets)
    exact = MaskPrediction(*(x.detach().float().requires_grad_() for x in half))
    expected = make_criterion()(exact, targets)
    for name in losses:
        assert losses[name].dtype == torch.float32
        assert float(losses[name]) == pytest.approx(float(expected[name]), rel=1e-6)


POINTS = PointOptions(40)
METHODS = pytest.mark.parametrize("points", [None, POINTS], ids=["dense", "points"])


def results(prediction, targets, points=None, seed=0):
    """Losses and gradients of a step."""
    torch.manual_seed(seed)
    losses = make_criterion(points=points)(prediction, targets)
    return torch.stack(list(losses.values())), *gradients(losses, prediction)


def pad_batch(prediction, targets, value, ignored=()):
    """The batch with padding: two rows and three columns of cells, eight and twelve pixels.

    Every padded cell holds ``value``, every padded or ignored pixel is in every mask.
    """
    padded = []
    for i, target in enumerate(targets):
        valid = torch.ones(16, 20, dtype=torch.bool)
        if i in ignored:
            valid = torch.rand(16, 20, generator=torch.Generator().manual_seed(i)) < 0.7
        masks = F.pad(target.masks | ~valid, (0, 12, 0, 8), value=True)
        valid = F.pad(valid, (0, 12, 0, 8), value=True) if i in ignored else None
        padded.append(MaskTarget(target.labels, masks, valid, (16, 20)))
    maps = F.pad(prediction.pixel_embed.detach(), (0, 3, 0, 2), value=value).requires_grad_()
    return prediction._replace(pixel_embed=maps), padded


@METHODS
@pytest.mark.parametrize("value", [0.0, 1e4, float("nan")])
def test_padding_changes_nothing(points, value):
    prediction, targets = random_case([3, 2])
    alone = results(prediction, targets, points)
    padded = results(*pad_batch(prediction, targets, value), points)
    for a, b in zip(alone[:3], padded[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(padded[3][..., :4, :5], alone[3], rtol=1e-12, atol=1e-14)
    assert torch.count_nonzero(padded[3][..., 4:, :]) == 0
    assert torch.count_nonzero(padded[3][..., 5:]) == 0


@METHODS
def test_masks_of_ignored_pixels_do_not_matter(points):
    prediction, targets = pad_batch(*random_case([3, 2]), 0.0, ignored=(0, 1))
    others = [t._replace(masks=t.masks ^ ~t.valid) for t in targets]
    assert not torch.equal(others[0].masks, targets[0].masks)
    for a, b in zip(
        results(prediction, targets, points), results(prediction, others, points), strict=True
    ):
        assert torch.equal(a, b)


def test_images_of_different_sizes_in_a_batch_are_as_alone():
    """Sums over the images of a batch are those of each alone, but for the count of segments."""
    prediction, targets = random_case([3, 2])
    smaller = targets[1]._replace(size=(8, 12))
    both = make_criterion()(prediction, [targets[0], smaller])
    total = 0
    for i, target in enumerate([targets[0], smaller]):
        masks = target.masks if target.size is None else target.masks[:, :8, :12]
        maps = prediction.pixel_embed[i : i + 1]
        maps = maps if target.size is None else maps[..., :2, :3]
        alone = MaskPrediction(
            prediction.class_logits[:, i : i + 1], prediction.mask_embed[:, i : i + 1], maps
        )
        losses = make_criterion()(alone, [MaskTarget(target.labels, masks)])
        total = total + len(target.labels) * losses["loss_mask"].detach()
    assert float(both["loss_mask"].detach()) == pytest.approx(float(total) / 5, rel=1e-12)


@METHODS
def test_an_image_that_is_ignored_altogether(points):
    prediction, targets = random_case([3])
    targets = [targets[0]._replace(valid=torch.zeros(16, 20, dtype=torch.bool))]
    losses = make_criterion(points=points)(prediction, targets)
    masks = {k: v for k, v in losses.items() if not k.startswith("loss_ce")}
    assert all(float(v.detach()) == 0 for v in masks.values())
    assert all(v.isfinite() for v in losses.values())
    for gradient in torch.autograd.grad(sum(masks.values()), list(prediction)[1:]):
        assert torch.count_nonzero(gradient) == 0


@METHODS
def test_all_valid_and_full_size_is_as_without(points):
    prediction, targets = random_case([3, 2])
    full = [t._replace(valid=torch.ones(16, 20, dtype=torch.bool), size=(16, 20)) for t in targets]
    for a, b in zip(
        results(prediction, targets, points), results(prediction, full, points), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


class TestPoints:
    def test_a_seed_gives_the_step(self):
        case = random_case([3, 2])
        first, second, other = (results(*case, POINTS, seed) for seed in (1, 1, 2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert not torch.equal(first[0], other[0])

    def test_many_points_are_near_the_dense_losses(self):
        prediction, targets = random_case([3, 2])
        matches = bipartite_matching(prediction, targets, WEIGHTS)
        dense = make_criterion()(prediction, targets)
        criterion = make_criterion(points=PointOptions(20_000, 1.0, 0.0))
        criterion.matcher = lambda *_: matches  # with points another one may be best
        for name, loss in criterion(prediction, targets).items():
            assert float(loss.detach()) == pytest.approx(float(dense[name].detach()), rel=0.03)

    @pytest.mark.parametrize("segments", [[1, 0], [0, 0], [7, 4]])
    def test_few_or_many_segments(self, segments):
        prediction, targets = random_case(segments)
        losses, *grads = results(prediction, targets, POINTS)
        assert losses.isfinite().all()
        assert all(grad.isfinite().all() for grad in grads)
        assert [float(loss) == 0 for loss in losses[1:3]] == [sum(segments) == 0] * 2

    def test_a_matcher_of_the_usual_signature_sees_rows_of_pixels(self):
        prediction, targets = random_case([3, 2])
        seen = []

        def matcher(prediction, targets):
            seen.append((prediction, targets))
            return bipartite_matching(prediction, targets, WEIGHTS)

        criterion = make_criterion(points=POINTS)
        criterion.matcher = matcher
        criterion(prediction, targets)
        (((_, _, maps), rows),) = seen
        assert maps.shape == (2, 6, 1, 40)
        assert [tuple(row.masks.shape) for row in rows] == [(3, 1, 40), (2, 1, 40)]

    def test_with_fixed_matching(self):
        prediction, targets = random_case([0, 0])
        targets = [
            t._replace(labels=torch.tensor([2, 0]), masks=m)
            for t, m in zip(targets, torch.rand(2, 2, 16, 20) < 0.5, strict=True)
        ]
        criterion = make_criterion(points=POINTS)
        criterion.matcher = fixed_matching
        losses = criterion(prediction, targets)
        (grad,) = torch.autograd.grad(losses["loss_mask"], prediction.mask_embed)
        assert grad[-1].abs().sum(-1).gt(0).tolist() == [[True, False, True, False, False]] * 2

    def test_half_precision(self):
        prediction, targets = random_case([3, 2], dtype=torch.float32)
        half = MaskPrediction(*(x.detach().bfloat16().requires_grad_() for x in prediction))
        exact = MaskPrediction(*(x.detach().float().requires_grad_() for x in half))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, *_ = results(half, targets, POINTS)
        torch.testing.assert_close(found, results(exact, targets, POINTS)[0])


class Copies(TorchDispatchMode):
    """Records the copies between devices for which the host would wait."""

    def __init__(self):
        super().__init__()
        self.blocking = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[-1] if func.overloadpacket is torch.ops.aten._to_copy else args[1]
            waits = not (kwargs or {}).get("non_blocking", False)
            if out.device != source.device and waits:
                self.blocking.append(str(func))
        return out


def on_meta(prediction, targets):
    """The same step on the device without data: whoever asks for a value there gets an error."""
    prediction = MaskPrediction(*(x.detach().to("meta").requires_grad_() for x in prediction))
    targets = [
        MaskTarget(*(x if x is None or isinstance(x, tuple) else x.to("meta") for x in target))
        for target in targets
    ]
    return prediction, targets


@METHODS
@pytest.mark.parametrize("matcher", ["bipartite", "fixed"])
@pytest.mark.parametrize("padded", [False, True])
def test_one_transfer_a_step(monkeypatch, points, matcher, padded):
    """Forward and backward where there is nothing to transfer but what the matcher asks for."""
    transfers = []

    def cpu(tensor):
        assert tensor.device.type == "meta"
        transfers.append(tensor.shape)
        return torch.arange(tensor.numel(), dtype=tensor.dtype).view(tensor.shape) % 5

    prediction, targets = random_case([3, 2], dtype=torch.float32)
    if padded:
        prediction, targets = pad_batch(prediction, targets, 0.0, ignored=(0,))
        targets[1] = targets[1]._replace(size=(15, 18))
    case = on_meta(prediction, targets)
    criterion = make_criterion(points=points).to("meta")
    if matcher == "fixed":
        criterion.matcher = fixed_matching
    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    # It knows no meta device.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    with Copies() as copies:
        losses = criterion(*case)
        torch.autograd.grad(sum(losses.values()), list(case[0]))
    assert len(transfers) == 1
    assert copies.blocking == []


def test_the_counter_sees_what_waits():
    value = torch.ones(3)
    with Copies() as copies:
        value.to("meta", non_blocking=True)
        assert copies.blocking == []
        value.to("meta")
    assert len(copies.blocking) == 1
    with pytest.raises((RuntimeError, NotImplementedError)):
        value.to("meta").sum().item()


@METHODS
@pytest.mark.skipif(not torch.cuda.is_available(), reason="counts waits of a CUDA device")
def test_no_other_wait_on_cuda(monkeypatch, points):
    """CUDA's own check, which raises wherever the host waits, but at the one transfer."""
    original = torch.Tensor.cpu
    transfers = []

    def cpu(tensor):
        transfers.append(tensor.shape)
        torch.cuda.set_sync_debug_mode("default")
        values = original(tensor)
        torch.cuda.set_sync_debug_mode("error")
        return values

    prediction, targets = pad_batch(*random_case([3, 2], dtype=torch.float32), 0.0, ignored=(0,))
    prediction = MaskPrediction(*(x.detach().cuda().requires_grad_() for x in prediction))
    targets = [
        MaskTarget(*(x if x is None or isinstance(x, tuple) else x.cuda() for x in target))
        for target in targets
    ]
    criterion = make_criterion(points=points).cuda()
    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = criterion(prediction, targets)
        torch.autograd.grad(sum(losses.values()), list(prediction))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(transfers) == 1


def _losses_of_rank(rank, folder, segments):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=len(segments)
    )
    prediction, targets = random_case(segments[rank], seed=rank)
    losses = make_criterion()(prediction, targets)
    torch.save({k: float(v) for k, v in losses.items()}, os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.mark.parametrize("segments", [[[3, 2], [1, 0]], [[0], [1]]])
def test_segments_are_counted_over_all_ranks(tmp_path, segments):
    """Two processes: each divides its sums by the mean number of segments, at least 1."""
    mp.spawn(_losses_of_rank, args=(str(tmp_path), segments), nprocs=2)
    mean = max(sum(map(sum, segments)) / 2, 1)
    for rank, counts in enumerate(segments):
        found = torch.load(tmp_path / f"{rank}.pt")
        prediction, targets = random_case(counts, seed=rank)
        alone = make_criterion()(prediction, targets)
        factor = max(sum(counts), 1) / mean
        for name, loss in alone.items():
            expected = float(loss) * (1 if name.startswith("loss_ce") else factor)
            assert found[name] == pytest.approx(expected, rel=1e-9), name
