"""MaskFormer: semantic and panoptic segmentation by mask classification, on Detectron2.

Importing this does nothing else. The first use of a public name loads ``mask_former.d2``, which
registers the architectures and the data sets with Detectron2; ``mask_former.functional`` and
``mask_former.modeling`` need no Detectron2.
"""

from importlib import import_module

__version__ = "1.0.0"

_PUBLIC = {
    "add_mask_former_config": ".d2.config",
    "MaskFormer": ".d2.meta_arch",
    "MaskFormerSemanticDatasetMapper": ".d2.data.mappers",
    "MaskFormerPanopticDatasetMapper": ".d2.data.mappers",
    "MaskFormerInstanceDatasetMapper": ".d2.data.mappers",
    "DETRPanopticDatasetMapper": ".d2.data.mappers",
    "SemanticSegmentorWithTTA": ".d2.tta",
    "optimize_for_inference": ".d2.fuse_norms",
    "predict_batched": ".d2.predictor",
}
"""Public name to the module that holds it, relative so that the package works under any name."""

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
