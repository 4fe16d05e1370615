"""MaskFormer: semantic and panoptic segmentation by mask classification, on Detectron2.

Importing this does nothing else. The first use of a public name loads ``mask_former.d2``, which
registers the architectures and the data sets with Detectron2; ``mask_former.functional`` and
``mask_former.modeling`` need no Detectron2.
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "add_mask_former_config": "mask_former.d2.config",
    "MaskFormer": "mask_former.d2.meta_arch",
    "MaskFormerSemanticDatasetMapper": "mask_former.d2.data.dataset_mappers",
    "MaskFormerPanopticDatasetMapper": "mask_former.d2.data.dataset_mappers",
    "MaskFormerInstanceDatasetMapper": "mask_former.d2.data.instance_mapper",
    "DETRPanopticDatasetMapper": "mask_former.d2.data.detr_mapper",
    "SemanticSegmentorWithTTA": "mask_former.d2.tta",
    "optimize_for_inference": "mask_former.d2.inference",
    "predict_batched": "mask_former.d2.predictor",
}
"""Public name to the module that holds it."""

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
