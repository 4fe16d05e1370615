"""The original's path of DETR's panoptic mapper."""

from ...d2.data.mappers import DETRPanopticDatasetMapper as DETRPanopticDatasetMapper
