"""The criterion waits for the device once a step, for what the matcher asks."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mask_former.functional.matching import fixed_matching
from mask_former.structures import MaskPrediction, MaskTarget
from tests.modeling.criterion_cases import METHODS, make_criterion, pad_batch, random_case


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
    prediction = MaskPrediction(*(x.detach().to("meta").requires_grad_() for x in prediction[:3]))
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
        return torch.arange(tensor.numel(), dtype=tensor.dtype).view(tensor.shape) % 3

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
        torch.autograd.grad(sum(losses.values()), case[0][:3])
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
    prediction = MaskPrediction(*(x.detach().cuda().requires_grad_() for x in prediction[:3]))
    targets = [
        MaskTarget(*(x if x is None or isinstance(x, tuple) else x.cuda() for x in target))
        for target in targets
    ]
    criterion = make_criterion(points=points).cuda()
    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = criterion(prediction, targets)
        torch.autograd.grad(sum(losses.values()), prediction[:3])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(transfers) == 1
