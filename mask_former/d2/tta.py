"""Test-time augmentation for semantic segmentation: scales and flips, scores averaged."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import HFlipTransform
from detectron2.modeling import DatasetMapperTTA
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .data.reading import read_picture
from .errors import InputError

Sample = dict[str, Any]


class SemanticSegmentorWithTTA(nn.Module):
    """A semantic model whose scores are the mean over augmented variants of the image.

    By default the variants are made from the image that the test loader has already resized:
    published numbers depend on that. With ``TEST.AUG.RESIZE_TWICE: False`` they are made from the
    original file.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        tta_mapper: Callable[[Sample], list[Sample]] | None = None,
        batch_size: int = 1,
    ) -> None:
        """Wraps a model.

        Args:
            cfg: the whole configuration; ``TEST.AUG`` and ``INPUT.FORMAT`` are read.
            model: gives ``sem_seg`` for each image.
            tta_mapper: a sample to its variants, each with ``image`` and ``transforms``; default
                Detectron2's, which reads ``TEST.AUG.{MIN_SIZES, MAX_SIZE, FLIP}``.
            batch_size: variants that go through the model together.
        """
        super().__init__()
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.tta_mapper = DatasetMapperTTA(cfg) if tta_mapper is None else tta_mapper
        self.batch_size = batch_size
        self.image_format = cfg.INPUT.FORMAT
        self.resize_twice = cfg.TEST.AUG.RESIZE_TWICE

    @torch.no_grad()
    def forward(self, batched_inputs: list[Sample]) -> list[dict[str, Tensor]]:
        """``sem_seg`` [K, height, width] of each image; inputs as the model's."""
        return [{"sem_seg": self._mean_scores(self._complete(x))} for x in batched_inputs]

    def _mean_scores(self, sample: Sample) -> Tensor:
        variants = self.tta_mapper(sample)
        total: Tensor | None = None
        for scores in self._scores(variants):
            # Summed as they come: all maps at once would be gigabytes.
            total = scores if total is None else total.add_(scores)
        if total is None:
            raise InputError("TEST.AUG.MIN_SIZES is empty; name at least one size")
        return total.div_(len(variants))

    def _scores(self, variants: list[Sample]) -> Iterator[Tensor]:
        """Scores [K, height, width] of each variant, flipped back."""
        for start in range(0, len(variants), self.batch_size):
            batch = variants[start : start + self.batch_size]
            for variant, result in zip(batch, self.model(batch), strict=True):
                transforms = variant["transforms"].transforms
                flipped = any(isinstance(t, HFlipTransform) for t in transforms)
                yield result["sem_seg"].flip(-1) if flipped else result["sem_seg"]

    def _complete(self, sample: Sample) -> Sample:
        """The sample with ``image``, ``height`` and ``width``."""
        given = "image" in sample and self.resize_twice
        image = sample["image"] if given else self._read(sample)
        height, width = image.shape[-2:]
        return {"height": height, "width": width, **sample, "image": image}

    def _read(self, sample: Sample) -> Tensor:
        if "file_name" not in sample:
            raise InputError(
                "test-time augmentation needs the file_name of an image that comes without its "
                "pixels, or with TEST.AUG.RESIZE_TWICE False; add it to the input"
            )
        image = read_picture(sample["file_name"], self.image_format)
        return torch.from_numpy(image.copy()).permute(2, 0, 1)
