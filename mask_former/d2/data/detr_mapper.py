"""The dataset mapper of DETR (Carion et al. 2020): about half of the samples are cropped."""

import copy
import logging
from typing import Any

import numpy as np
from detectron2.config import CfgNode, configurable

from . import input_section, reading, samples
from .augmentation import Arrays, Augmentations, augment, segments_target
from .samples import Sample

_logger = logging.getLogger(__name__)


class DETRPanopticDatasetMapper:
    """Panoptic samples with the augmentation of DETR: no colour jitter and no padding.

    Args:
        is_train: whether to add ``instances``.
        crop_gen: put before the last of ``tfm_gens`` for about half of the samples; or None.
        tfm_gens: applied in order.
        image_format: of the image that the model sees.
        num_classes: K, to check categories against. None checks none.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        crop_gen: Augmentations | None,
        tfm_gens: Augmentations,
        image_format: str,
        num_classes: int | None = None,
    ) -> None:
        self.is_train = is_train
        self.crop_gen = None if crop_gen is None else list(crop_gen)
        self.tfm_gens = list(tfm_gens)
        self.img_format = image_format
        self.num_classes = num_classes
        all_gens = [*self.tfm_gens, *(self.crop_gen or [])]
        _logger.info("[%s] Augmentations: %s", type(self).__name__, all_gens)

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Constructor arguments, from INPUT and the classes."""
        return input_section.detr_arguments(cfg, is_train)

    def __call__(self, dataset_dict: Sample) -> Sample:
        """Maps one sample in Detectron2's format.

        Returns:
            The sample with ``image`` [3, H, W] and, in training and if it has a panoptic map,
            ``instances``, ``image_size`` and ``valid``, as from
            ``MaskFormerPanopticDatasetMapper``.

        Raises:
            InputError: if a file or an annotation is bad.
        """
        sample = copy.deepcopy(dataset_dict)
        image = reading.read_image(sample, self.img_format)
        has_target = self.is_train and "pan_seg_file_name" in sample
        panoptic = samples.read_panoptic(sample, image, self.num_classes) if has_target else None
        tensors = augment(Arrays(image, panoptic=panoptic), self._draw_augmentations())
        sample["image"] = tensors.image
        if not self.is_train:
            sample.pop("annotations", None)
        if tensors.panoptic is None:
            return sample
        target = segments_target(tensors.panoptic, sample["segments_info"])
        return samples.complete(sample, tensors.image, tensors.image.shape[-2:], target)

    def _draw_augmentations(self) -> Augmentations:
        if self.crop_gen is None or np.random.rand() > 0.5:
            return self.tfm_gens
        return self.tfm_gens[:-1] + self.crop_gen + self.tfm_gens[-1:]
