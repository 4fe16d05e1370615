"""The original's path of the semantic mapper."""

from ...d2.data.mappers import MaskFormerSemanticDatasetMapper as MaskFormerSemanticDatasetMapper
