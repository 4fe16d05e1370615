"""The original's path of the panoptic mapper."""

from ...d2.data.mappers import MaskFormerPanopticDatasetMapper as MaskFormerPanopticDatasetMapper
