"""The code paths of CUDA without a device: fake tensors, which know device, type and shape alone.

An operator that mixes devices raises, and so does every read of a value but by a copy to the host.
The backward pass needs a real device: autograd asks it for a context.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from detectron2.structures import ImageList
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


def small_numbers(tensor: torch.Tensor) -> np.ndarray:
    """What might stand in a tensor that has no values."""
    return np.arange(tensor.numel(), dtype=np.float32).reshape(tuple(tensor.shape)) % 3


# What is done with a tensor on the host, and what it finds there.
ON_THE_HOST = {
    "numpy": small_numbers,
    "tolist": lambda t: small_numbers(t).astype(int).tolist(),
    "__int__": lambda t: 2,
    "nonzero": lambda t: torch.arange(2)[:, None],
    "unique": lambda t, **_: (torch.arange(2), torch.zeros(t.shape, dtype=torch.int64)),
}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The copies from the device to the host; any other read of what is there raises."""
    happened: list[str] = []
    copy = FakeTensor.cpu

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type == "cuda":
            happened.append("cpu")
        return copy(tensor)

    def on_the_host(name: str, find: Callable[..., object]) -> None:
        original = getattr(FakeTensor, name)

        def found(tensor: torch.Tensor, *args: object, **kwargs: object) -> object:
            if tensor.device.type == "cuda":
                return original(tensor, *args, **kwargs)
            return find(tensor, **kwargs)

        monkeypatch.setattr(FakeTensor, name, found)

    # Without a device autocast would turn itself off.
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    monkeypatch.setattr(FakeTensor, "cpu", counted)
    for name, find in ON_THE_HOST.items():
        on_the_host(name, find)
    return happened


class NoDoublesOnTheDevice(TorchDispatchMode):
    """Refuses float64 on the device, as MPS does, which has none."""

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: object = (), kwargs: object = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64:
                assert leaf.device.type == "cpu", func
        return result


@contextmanager
def on_a_device(dtype: torch.dtype) -> Iterator[None]:
    """Fake tensors, without float64 on the device, under autocast to a half type."""
    mixed = torch.autocast("cuda", dtype, enabled=dtype != torch.float32)
    with FakeTensorMode(), NoDoublesOnTheDevice(), mixed:
        yield


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
    with on_a_device(dtype):
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
    with on_a_device(dtype):
        to_cuda(model)
        for x, result in zip(inputs(False), model(inputs(training=False)), strict=True):
            assert result["sem_seg"].device.type == "cuda"
            assert result["sem_seg"].shape[1:] == x["image"].shape[1:]
    assert reads == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "kinds", [["PANOPTIC"], ["INSTANCE"], ["PANOPTIC", "INSTANCE", "SEMANTIC"]]
)
@torch.no_grad()
def test_class_logits_are_read_once_and_each_kind_once_an_image(kinds, dtype, reads):
    options = {f"{MASK_FORMER}.TEST.SEMANTIC_ON": False}
    options |= {f"{MASK_FORMER}.TEST.{kind}_ON": True for kind in kinds}
    options |= {"DATASETS.TRAIN": ("shapes_panoptic_train",), f"{HEAD}.NUM_CLASSES": 7}
    model = real_model(options).eval()
    with on_a_device(dtype):
        to_cuda(model)
        for result in model(inputs(training=False)):
            assert len(result) == len(kinds)
            maps = result["panoptic_seg"][0] if "panoptic_seg" in result else None
            found = result["instances"].get_fields() if "instances" in result else {}
            tensors = [maps, *(getattr(x, "tensor", x) for x in found.values())]
            assert {x.device.type for x in tensors if x is not None} == {"cuda"}
    asking = [kind for kind in kinds if kind != "SEMANTIC"]
    assert reads == ["cpu"] * (1 + 2 * len(asking))
