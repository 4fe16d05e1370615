"""The code paths of CUDA without a device: fake tensors, which know device, type and shape alone.

An operator that mixes devices raises, and so does every read of a value but the declared ones.
The backward pass needs a real device: autograd asks it for a context.
"""

import numpy as np
import pytest
import torch
from detectron2.structures import ImageList
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from mask_former.d2.build.model import build_model
from tests.d2.tiny_models import (
    HEAD,
    MASK_FORMER,
    SWIN,
    WITH_ENCODER,
    make_cfg,
    sample,
)

CONFIGURATIONS = {
    "ResNet": {},
    "Swin": SWIN,
    "encoder": WITH_ENCODER,
    "points": {f"{MASK_FORMER}.TRAIN_NUM_POINTS": 24},
    "padding": {**WITH_ENCODER, f"{MASK_FORMER}.VALID_MASK": True},
    "gradient checkpointing": {"MODEL.RESNETS.USE_CHECKPOINT": True},
}


class Host:
    """What a tensor on the device is like when it has been read: small whole numbers."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.shape = tuple(tensor.shape)

    def numpy(self) -> np.ndarray:
        return np.arange(np.prod(self.shape), dtype=np.float32).reshape(self.shape) % 3


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the declared reads that happened; each finds something plausible."""
    happened: list[str] = []

    def read(name: str, find: object) -> None:
        original = getattr(FakeTensor, name)

        def declared(tensor: torch.Tensor, *args: object, **kwargs: object) -> object:
            if tensor.device.type != "cuda":
                return original(tensor, *args, **kwargs)
            happened.append(name)
            return find(tensor)

        monkeypatch.setattr(FakeTensor, name, declared)

    read("cpu", Host)  # the matching costs
    read("tolist", lambda t: Host(t).numpy().tolist())  # the table of segments
    read("nonzero", lambda t: torch.arange(2, device=t.device)[:, None])  # queries that are sure
    return happened


def real_model(options: dict) -> torch.nn.Module:
    return build_model(make_cfg({"MODEL.DEVICE": "cpu"} | options))


def to_cuda(model: torch.nn.Module) -> torch.nn.Module:
    """The model with fake weights on the device; ``Module.to`` cannot exchange those."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            fake = torch.empty(weight.shape, dtype=weight.dtype, device="cuda")
            module._parameters[name] = torch.nn.Parameter(fake, weight.requires_grad)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    # Detectron2 finds the largest image by tensors on the CPU, whose values are not known here.
    images = ImageList(torch.empty(2, 3, 64, 96, device="cuda"), [(64, 96), (50, 70)])
    model.normalize_and_pad = lambda _: images
    return model


def inputs(training: bool) -> list[dict]:
    batch = [sample(64, 96, [0, 2]), sample(50, 70, [1])]
    return batch if training else [{"image": x["image"]} for x in batch]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_losses_mix_no_devices_and_read_once(name, dtype, reads):
    model = real_model(CONFIGURATIONS[name]).train()
    with FakeTensorMode(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        to_cuda(model)
        losses = model(inputs(training=True))
        assert all(loss.device.type == "cuda" for loss in losses.values())
        assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert reads == ["cpu"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGURATIONS)
@torch.no_grad()
def test_semantic_results_mix_no_devices_and_read_nothing(name, dtype, reads):
    model = real_model(CONFIGURATIONS[name]).eval()
    with FakeTensorMode(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        to_cuda(model)
        for x, result in zip(inputs(False), model(inputs(training=False)), strict=True):
            assert result["sem_seg"].device.type == "cuda"
            assert result["sem_seg"].shape[1:] == x["image"].shape[1:]
    assert reads == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@torch.no_grad()
def test_segments_read_twice_an_image(dtype, reads):
    keys = {"PANOPTIC_ON": True, "SEMANTIC_ON": False}
    options = {f"{MASK_FORMER}.TEST.{key}": value for key, value in keys.items()}
    options |= {"DATASETS.TRAIN": ("shapes_panoptic_train",), f"{HEAD}.NUM_CLASSES": 7}
    model = real_model(options).eval()
    with FakeTensorMode(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        to_cuda(model)
        results = model(inputs(training=False))
        assert all(r["panoptic_seg"][0].device.type == "cuda" for r in results)
    assert reads == ["nonzero", "tolist"] * 2
