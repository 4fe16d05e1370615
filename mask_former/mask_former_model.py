"""The original's path of the meta-architecture."""

from .d2.meta_arch import MaskFormer as MaskFormer
