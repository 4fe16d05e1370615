"""A model that takes pictures: Detectron2's predictor with our builders and our checkpointer."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from torch import nn

from .build.model import build_model
from .checkpoint import MaskFormerCheckpointer
from .data.augmentation import ResizeShortestEdge
from .errors import InputError
from .fuse_norms import optimize_for_inference
from .weights.record import load_trained_config

Sample = dict[str, Any]
Result = dict[str, Any]


class Predictor(DefaultPredictor):
    """Calling it with a picture [H, W, 3] (BGR, uint8) gives the model's result of that size."""

    def __init__(self, cfg: CfgNode) -> None:
        """Not Detectron2's, which would build and load the model in its own way."""
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise InputError(
                f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}, which a predictor cannot make of a BGR "
                "picture; give RGB or BGR"
            )
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg)
        MaskFormerCheckpointer(self.model, averaged=True).load(cfg.MODEL.WEIGHTS)
        optimize_for_inference(self.model)
        side = cfg.INPUT.MIN_SIZE_TEST
        self.aug = ResizeShortestEdge([side, side], cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT
        if cfg.DATASETS.TEST:
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])

    def __call__(self, picture: np.ndarray) -> Result:
        """The result of one picture [H, W, 3]; BGR, uint8."""
        return next(self.predict([picture]))

    def predict(self, pictures: Iterable[np.ndarray], batch_size: int = 1) -> Iterator[Result]:
        """The results of many pictures [H, W, 3] (BGR, uint8) of any sizes, in their order.

        Args:
            pictures: read as they are needed, see :func:`predict_batched`; ``_as_bgr`` says
                which others are understood.
            batch_size: pictures that go through the model together, at most.
        """
        return predict_batched(self.model, map(self.sample, pictures), batch_size)

    def sample(self, picture: np.ndarray) -> Sample:
        """What the model takes of a picture: in its order of channels, resized."""
        picture = _as_bgr(picture)
        height, width = picture.shape[:2]
        if self.input_format == "RGB":
            picture = picture[:, :, ::-1]
        resized = self.aug.get_transform(picture).apply_image(picture)
        # Bytes, which the model makes numbers of: of large pictures, a tile at a time.
        image = torch.from_numpy(np.require(resized, requirements=["C", "W"])).permute(2, 0, 1)
        return {"image": image, "height": height, "width": width}


def _as_bgr(picture: np.ndarray | None) -> np.ndarray:
    """The picture [H, W, 3] of one that is so already, grey [H, W] or [H, W, 1], or BGRA.

    Raises:
        InputError: it is something else.
    """
    if picture is None:
        raise InputError(
            "the picture is None, which cv2.imread gives for a file that is missing or no picture; "
            "mend the file's name"
        )
    shape, dtype = np.shape(picture), getattr(picture, "dtype", type(picture).__name__)
    channels = 1 if len(shape) == 2 else shape[-1] if len(shape) == 3 else 0
    if dtype != np.uint8 or channels not in (1, 3, 4) or 0 in shape:
        raise InputError(
            f"the picture is {dtype} {list(shape)}; give uint8 in 0..255, [H, W, 3] in the order "
            "BGR, [H, W] or [H, W, 1] in grey, or [H, W, 4] in BGRA"
        )
    if channels == 1:
        return picture.reshape(*shape[:2], 1).repeat(3, axis=2)
    return picture[:, :, :3]


def predict_batched(
    model: nn.Module, samples: Iterable[Sample], batch_size: int, window: int | None = None
) -> Iterator[Result]:
    """Results of many images of different sizes, each the one that the image has alone.

    Images that are padded to the same size share a batch: none sees more padding than alone.

    Args:
        model: a model in evaluation mode; its ``size_divisibility``, or its backbone's, tells the
            padding.
        samples: what the model takes for an image each; read a window at a time.
        batch_size: images in a batch, at most; at least 1.
        window: images among which batches are formed; so many results may wait for their turn.
            Default: four batches.

    Yields:
        What the model gives for an image, in the order of the samples.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    rest = iter(samples)
    while chunk := list(islice(rest, window or 4 * batch_size)):
        yield from _predict_window(model, chunk, batch_size)


def _predict_window(model: nn.Module, samples: list[Sample], batch_size: int) -> Iterator[Result]:
    results: dict[int, Result] = {}
    # Detectron2's SemanticSegmentor pads to a multiple that its backbone names.
    holder: Any = model if hasattr(model, "size_divisibility") else model.backbone
    batches = iter(_batches(samples, batch_size, max(1, holder.size_divisibility)))
    for index in range(len(samples)):
        while index not in results:
            batch = next(batches)
            with torch.no_grad():
                found = model([samples[i] for i in batch])
            results.update(zip(batch, found, strict=True))
        yield results.pop(index)


def _batches(samples: list[Sample], batch_size: int, divisor: int) -> list[list[int]]:
    """Indices that share a batch, sorted by the first of each."""
    groups = defaultdict(list)
    for index, sample in enumerate(samples):
        size = sample["image"].shape[-2:]
        groups[tuple(-(-side // divisor) for side in size)].append(index)
    return sorted(
        group[start : start + batch_size]
        for group in groups.values()
        for start in range(0, len(group), batch_size)
    )


def load_predictor(
    config_file: str | None = None, weights: str | None = None, opts: Sequence[Any] = ()
) -> Predictor:
    """A predictor from a checkpoint, on a GPU where there is one, else on the CPU.

    ``load_predictor("model_final.pth")`` is enough for files that we saved: they carry their
    configuration and their classes. Others need ``load_predictor("config.yaml", "weights.pkl")``.

    Args:
        config_file: YAML, which wins over that in the checkpoint; given alone, the checkpoint.
        weights: a checkpoint.
        opts: KEY VALUE pairs that override either configuration.

    Raises:
        InputError: a file is missing or bad, they do not fit each other, the checkpoint alone does
            not suffice, or ``opts`` name a device that cannot be used.
    """
    if weights is None:
        config_file, weights = None, config_file
    if weights is None or weights.endswith((".yaml", ".yml")):
        raise InputError(
            f"load_predictor has no weights, {weights} is given alone; give a checkpoint, or a "
            "configuration and a checkpoint"
        )
    return Predictor(load_trained_config(config_file, ["MODEL.WEIGHTS", weights, *opts]))
