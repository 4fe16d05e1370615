"""A batch in parts: the law that its gradient is the whole batch's, and memory that runs out."""

import logging

import pytest
import torch
from torch import nn

from mask_former.d2.build.model import build_model
from mask_former.d2.errors import InputError
from mask_former.d2.mixed_precision import MixedPrecisionTrainer
from mask_former.d2.run.accumulation import AccumulatingTrainer, check_parts, pad_together, split
from tests.d2.tiny_models import BASELINE, LEARNING, MASK_FORMER, PLUS, make_cfg, sample

BATCH = [sample(32, 40, [0, 1]), sample(40, 32, [2]), sample(36, 36, [1, 0, 2]), sample(8, 9, [])]
POINTS = {f"{MASK_FORMER}.TRAIN_NUM_POINTS": 30}
VALID = {f"{MASK_FORMER}.VALID_MASK": True}
FEW_QUERIES = {f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 2}


def trainer(options=None, parts=1, batches=1):
    torch.manual_seed(0)
    model = build_model(make_cfg(options or {}, LEARNING)).double()
    loop = AccumulatingTrainer(
        model, [BATCH] * batches, torch.optim.SGD(model.parameters(), lr=0.01)
    )
    loop.parts = parts
    loop._write_metrics = lambda losses, data_time: None  # which needs a running training
    return loop


def step(loop):
    """Losses and gradients."""
    torch.manual_seed(1)
    loop.run_step()
    gradients = {name: p.grad for name, p in loop.model.named_parameters() if p.grad is not None}
    return loop.losses, gradients


@pytest.mark.parametrize("parts", [2, 3, 9])
@pytest.mark.parametrize(
    "options",
    [{}, POINTS, VALID, FEW_QUERIES, BASELINE, PLUS],
    ids=["masks", "points", "valid", "surplus", "per-pixel", "per-pixel-plus"],
)
def test_the_gradient_is_the_whole_batchs(options, parts):
    whole_losses, whole = step(trainer(options))
    losses, gradients = step(trainer(options, parts))
    torch.testing.assert_close(losses, whole_losses, rtol=1e-6, atol=1e-9)
    scale = max(gradient.abs().max() for gradient in whole.values())
    torch.testing.assert_close(gradients, whole, rtol=0, atol=1e-7 * float(scale))


def test_parts_in_mixed_precision():
    """Within what bfloat16 rounds."""
    found = []
    for parts in (1, 2):
        loop = trainer(parts=parts)
        loop.model.float()
        found.append(step(MixedPrecisionTrainer(loop, torch.bfloat16)))
    (whole_losses, _), (losses, gradients) = found
    torch.testing.assert_close(sum(losses.values()), sum(whole_losses.values()), rtol=0.02, atol=0)
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())


def test_normalisers_of_parts_alone_would_give_another_gradient(monkeypatch):
    """So the law is not empty."""
    whole = sum(step(trainer())[0].values())
    monkeypatch.setattr("mask_former.d2.run.accumulation.counter", lambda model: None)
    assert abs(sum(step(trainer(parts=2))[0].values()) - whole) > 0.1


def test_parts():
    assert split([0, 1, 2, 3, 4], 2) == [[0, 1, 2], [3, 4]]
    assert split([0, 1], 5) == [[0], [1]]
    assert split([0, 1], 1) == [[0, 1]]


def test_padding_is_zero_for_the_model():
    model = trainer().model
    padded = pad_together(BATCH, model)
    assert {x["image"].shape for x in padded} == {(3, 40, 40)}
    assert {x["sem_seg"].shape for x in padded} == {(40, 40)}
    assert padded[0]["sem_seg"][32:].unique().tolist() == [255]
    assert [x["image_size"] for x in padded] == [(32, 40), (40, 32), (36, 36), (8, 9)]
    ours, theirs = model.normalize_and_pad(padded), model.normalize_and_pad(BATCH)
    assert torch.equal(ours.tensor, theirs.tensor)
    assert pad_together(padded, model) is padded


class OutOfMemory:
    """A hook that lets the device run out of memory at some calls."""

    def __init__(self, *calls):
        self.calls, self.seen = calls, 0

    def __call__(self, module, args):
        self.seen += 1
        if self.seen in self.calls:
            torch.rand(1)  # a draw of the step that is lost
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nadvice")


BATCH_NORM = {"MODEL.RESNETS.NORM": "BN", f"{MASK_FORMER}.DROPOUT": 0.5}


def test_out_of_memory_repeats_the_step_in_more_parts(caplog):
    """Statistics and draws are those of a run that was split from the start."""
    caplog.set_level(logging.INFO, logger="mask_former")
    loop, other = trainer(BATCH_NORM, batches=2), trainer(BATCH_NORM, parts=4, batches=2)
    loop.model.criterion.register_forward_pre_hook(OutOfMemory(1, 3))
    for _ in range(2):
        assert_same(step(loop), step(other))
    assert loop.parts == 4
    buffers = zip(loop.model.buffers(), other.model.buffers(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in buffers)
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 2
    assert "Tried to allocate 2 GiB)" in said[1]
    assert "in 4 parts, as with SOLVER.ACCUMULATE 4" in said[1]


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_out_of_memory_with_one_picture_at_a_time():
    loop = trainer(parts=4)
    loop.model.criterion.register_forward_pre_hook(OutOfMemory(2))
    with pytest.raises(InputError, match=r"with one picture at a time .*INPUT\.CROP\.SIZE"):
        step(loop)


class Uncounted(nn.Module):
    """A model with losses of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch):
        raise torch.OutOfMemoryError("none left")


def test_models_that_cannot_be_counted():
    check_parts(Uncounted(), 1)
    with pytest.raises(InputError, match=r"ACCUMULATE is 2.*Uncounted has no `whole_batch`"):
        check_parts(Uncounted(), 2)
    model = Uncounted()
    loop = AccumulatingTrainer(model, [BATCH], torch.optim.SGD(model.parameters(), lr=0.01))
    with pytest.raises(InputError, match=r"none left.*SOLVER\.IMS_PER_BATCH"):
        loop.run_step()
