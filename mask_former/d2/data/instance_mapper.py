"""The dataset mapper of instance annotations: polygons or run lengths in, masks out."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable

from ...functional.targets import instance_target
from ...structures import MaskTarget
from ..errors import InputError
from . import annotations, input_section, reading, samples
from .augmentation import Arrays, Augmentations, Tensors
from .mappers import MaskFormerSemanticDatasetMapper
from .samples import Sample


class MaskFormerInstanceDatasetMapper(MaskFormerSemanticDatasetMapper):
    """Instance training samples: one segment for each annotation that is no crowd.

    Annotations are Detectron2's, as its loader of COCO's JSON gives them: polygons or run lengths.
    They are painted at the size of the image and augmented as masks, and so are crowds, whose
    pixels are not valid where they are nothing else.
    """

    @configurable
    def __init__(
        self,
        is_train: bool = True,
        *,
        augmentations: Augmentations,
        image_format: str,
        size_divisibility: int,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(
            is_train,
            augmentations=augmentations,
            image_format=image_format,
            ignore_label=None,
            size_divisibility=size_divisibility,
            num_classes=num_classes,
        )
        if input_section.needs_sem_seg(self.tfm_gens):
            raise InputError(
                "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA below 1 looks at label maps, which instance "
                "data lack; set it to 1.0"
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Constructor arguments, from INPUT and the classes."""
        return input_section.training_arguments(cfg, is_train)

    def _read(self, sample: Sample) -> Arrays:
        image = reading.read_image(sample, self.img_format)
        found = samples.take(sample, "annotations")
        kept = annotations.paint(found, sample["file_name"], image.shape[:2], self.num_classes)
        sample["annotations"] = kept.annotations
        return Arrays(image, masks=kept.masks, ignored=kept.ignored)

    def _target(self, tensors: Tensors, sample: Sample) -> MaskTarget:
        labels = [annotation["category_id"] for annotation in sample.pop("annotations")]
        target = instance_target(tensors.masks, torch.tensor(labels, dtype=torch.int64))
        return target._replace(valid=~tensors.ignored)
