"""Weights, images and targets of the golden cases, each drawn from its name.

Any implementation with the same parameter names and shapes gets the same numbers to the last bit,
and no weights or pictures need to be kept. The generator is NumPy's legacy one, whose stream NumPy
promises never to change; its seed is the CRC-32 of a name.
"""

from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

# What the architecture computes, and a file does not change.
CONSTANTS = ("criterion.empty_weight", "relative_position_index", "attn_mask")
# Factors on the usual spread of a weight, by a part of its name; the first that fits holds.
# They keep queries and tokens apart, which plain random weights let collapse onto one class.
SPREADS = {
    "transformer.encoder.layers": 0.5,
    "in_proj_weight": 0.4,
    "predictor.class_embed.weight": 4.0,
    "mask_embed.layers.2.weight": 0.35,
}
# Sizes of the two images of a batch, and the sizes that their results are asked for.
EVEN_SIZES = ((96, 128), (128, 112))
ODD_SIZES = ((97, 130), (128, 113))
RESULT_SIZES = {EVEN_SIZES: ((96, 128), (150, 131)), ODD_SIZES: ((97, 130), (150, 131))}


def generator(name: str) -> np.random.RandomState:
    return np.random.RandomState(crc32(name.encode()))


def draw_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """One parameter or buffer, float32; drawn in float64."""
    random = generator(name)
    if name.endswith("running_var"):
        values = random.uniform(0.5, 1.5, size=shape)
    else:
        values = random.standard_normal(shape)
        if name.endswith("running_mean"):
            values = 0.1 * values
        elif name.endswith(("relative_position_bias_table", "absolute_pos_embed")):
            values = 0.2 * values
        elif name.endswith("query_embed.weight"):
            values = 6.0 * values
        elif len(shape) > 1:
            values = _scaled_to_fan_in(name, values)
        elif name.endswith(".weight"):  # of a norm; a block's last norm is small, as trained ones
            values = (0.3 if name.endswith("conv3.norm.weight") else 1.0) * (1.0 + 0.1 * values)
        else:
            values = 0.05 * values
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def _scaled_to_fan_in(name: str, values: np.ndarray) -> np.ndarray:
    """A layer's weights [out, in, ...] with He et al.'s variance, and the factor of its name."""
    values = values * np.sqrt(2.0 / np.prod(values.shape[1:]))
    if "mask_features" in name:
        # Blind to a constant part of its input, so that mask logits change sign.
        mean = values.reshape(len(values), -1).mean(1)
        values = values - mean.reshape(-1, *(1 for _ in values.shape[1:]))
    return values * next((s for part, s in SPREADS.items() if part in name), 1.0)


@torch.no_grad()
def fill_model(model: nn.Module, calibration: Path | None = None) -> None:
    """Draws all that a model holds, in place.

    Args:
        model: filled by the names of its state_dict.
        calibration: file of biases that replace drawn ones, and of gains (``gain:`` and a name)
            that multiply drawn weights. They centre scores and embeddings, so that queries
            disagree and masks change sign.
    """
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point() and not name.endswith(CONSTANTS):
            tensor.copy_(draw_weight(name, tuple(tensor.shape)))
    if calibration is not None:
        with np.load(calibration) as corrections:
            for key, values in corrections.items():
                if key.startswith("gain:"):
                    state[key.removeprefix("gain:")].mul_(float(values))
                else:
                    state[key].copy_(torch.from_numpy(values))


def image(name: str, height: int, width: int) -> Tensor:
    """[3, height, width] uint8: coloured squares of 8 pixels, and noise."""
    random = generator(f"image:{name}")
    squares = random.randint(0, 256, size=(3, -(-height // 8), -(-width // 8)))
    noise = random.randint(-24, 25, size=(3, height, width))
    picture = squares.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width] + noise
    return torch.from_numpy(picture.clip(0, 255).astype(np.uint8))


def regions(name: str, height: int, width: int, count: int) -> np.ndarray:
    """[height, width] int64: which of ``count`` random sites is nearest to a pixel's centre."""
    random = generator(f"labels:{name}")
    y, x = random.uniform(0, height, size=count), random.uniform(0, width, size=count)
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    squares = (rows - y[:, None, None]) ** 2 + (columns - x[:, None, None]) ** 2
    return squares.argmin(0)


def semantic_target(
    name: str, height: int, width: int, count: int, num_classes: int, ignore: int = 255
) -> tuple[Tensor, Tensor, Tensor]:
    """A class for each region, none twice; the last region is ignored.

    Returns:
        class of each pixel [H, W], the classes [N] in increasing order, their masks [N, H, W].
    """
    owner = regions(name, height, width, count)
    classes = generator(f"classes:{name}").permutation(num_classes)[:count]
    sem_seg = np.where(owner == count - 1, ignore, classes[owner])
    labels = np.setdiff1d(sem_seg, [ignore])
    masks = sem_seg == labels[:, None, None]
    return torch.from_numpy(sem_seg), torch.from_numpy(labels), torch.from_numpy(masks)


def panoptic_target(
    name: str, height: int, width: int, count: int, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Classes [N] of the regions, which may repeat, and their masks [N, H, W]."""
    masks = regions(name, height, width, count) == np.arange(count)[:, None, None]
    labels = generator(f"pan:{name}").randint(0, num_classes, size=count)
    seen = masks.any((1, 2))
    return torch.from_numpy(labels[seen]), torch.from_numpy(masks[seen])


def model_inputs(name: str, sizes: tuple[tuple[int, int], ...]) -> list[dict]:
    """Two images and the sizes of their results, as Detectron2's models take them."""
    return [
        {"image": image(f"{name}/{i}", *size), "height": result[0], "width": result[1]}
        for i, (size, result) in enumerate(zip(sizes, RESULT_SIZES[sizes], strict=True))
    ]


def training_samples(
    name: str, kind: str, count: int, num_classes: int
) -> list[tuple[Tensor, Tensor | None, Tensor, Tensor]]:
    """Image, class of each pixel (none if panoptic), labels and masks, for two images.

    Args:
        name: of the model.
        kind: ``panoptic``, or else semantic.
        count: regions of the first image; the second has three fewer.
        num_classes: K.
    """
    samples: list[tuple[Tensor, Tensor | None, Tensor, Tensor]] = []
    for i, size in enumerate(EVEN_SIZES):
        place = f"train/{name}/{i}"
        if kind == "panoptic":
            labels, masks = panoptic_target(place, *size, count - 3 * i, num_classes)
            samples.append((image(place, *size), None, labels, masks))
        else:
            target = semantic_target(place, *size, count - 3 * i, num_classes)
            samples.append((image(place, *size), *target))
    return samples


def matcher_case(
    name: str, bs: int, Q: int, K: int, hw: list[int], ns: list[int], factor: int = 4
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Predictions and targets without a model; the case's parameters are the arguments.

    Returns:
        class logits [bs, Q, K+1], mask logits [bs, Q, h, w], and for each image labels [N] and
        masks [N, factor * h, factor * w].
    """
    random = generator(f"mc:{name}")
    class_logits = 3.0 * random.standard_normal((bs, Q, K + 1))
    mask_logits = 3.0 * random.standard_normal((bs, Q, *hw))
    labels = [random.randint(0, K, size=n) for n in ns]
    masks = [
        regions(f"mc:{name}:{b}", hw[0] * factor, hw[1] * factor, n) == np.arange(n)[:, None, None]
        if n
        else np.zeros((0, hw[0] * factor, hw[1] * factor), dtype=bool)
        for b, n in enumerate(ns)
    ]
    logits = (torch.from_numpy(x.astype(np.float32)) for x in (class_logits, mask_logits))
    return *logits, [torch.from_numpy(x) for x in labels], [torch.from_numpy(x) for x in masks]


def auxiliary_layers(class_logits: Tensor, mask_logits: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Two earlier decoder layers for a matcher case, derived from its predictions."""
    return [
        (class_logits.flip(1) * 0.5, mask_logits.flip(1) * 0.5),
        (class_logits.roll(1, 1), -mask_logits),
    ]


def inference_case(
    name: str,
    Q: int,
    K: int,
    hw: list[int],
    conf: float = 9.0,
    no_object: float = 0.4,
    repeat: int = 1,
    mode: str = "blob",
    **_: float,
) -> tuple[Tensor, Tensor]:
    """Class logits [Q, K+1] and mask logits [Q, h, w] without a model.

    Args:
        name: the case's, as all that follow.
        Q: queries.
        K: classes.
        hw: height and width.
        conf: the most that a query's own class is above the others.
        no_object: share of the queries that find nothing.
        repeat: queries that share a class, in the mean.
        mode: ``blob``, or ``empty-masks`` for masks that no pixel is in.
        _: number of things and thresholds, which change no input.
    """
    random = generator(f"inf:{name}")
    class_logits = random.standard_normal((Q, K + 1)).astype(np.float32)
    labels = random.randint(0, max(1, K // repeat), size=Q)
    labels[random.uniform(size=Q) < no_object] = K
    class_logits[np.arange(Q), labels] += (conf * random.uniform(0.5, 1.0, size=Q)).astype("f4")
    mask_logits = _ellipses(name, Q, *hw)
    if mode == "empty-masks":
        mask_logits = -np.abs(mask_logits) - 0.5
    return torch.from_numpy(class_logits), torch.from_numpy(mask_logits)


def _ellipses(name: str, count: int, height: int, width: int) -> np.ndarray:
    """[count, height, width] float32: logits, positive within a random ellipse, with noise."""
    random = generator(f"blob:{name}")
    y, x = random.uniform(0, height, count), random.uniform(0, width, count)
    half_height, half_width = (random.uniform(0.08, 0.45, count) * side for side in (height, width))
    down = (np.arange(height) - y[:, None]) / half_height[:, None]  # [count, height]
    right = (np.arange(width) - x[:, None]) / half_width[:, None]  # [count, width]
    depth = 1 - down[:, :, None] ** 2 - right[:, None] ** 2
    noise = 0.1 * random.standard_normal((count, height, width))
    return (np.clip(6.0 * depth, -12, 12) + noise).astype(np.float32)
