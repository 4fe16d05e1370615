"""The original's path of DETR's panoptic mapper."""

from ...d2.data.detr_mapper import DETRPanopticDatasetMapper as DETRPanopticDatasetMapper
