"""The Detectron2 glue. Importing it registers the architectures and the data sets, once."""

# ruff: noqa: E402
from .requirements import require_detectron2

require_detectron2()

# Registers build_resnet_deeplab_backbone, the backbone of the R101c models.
import detectron2.projects.deeplab  # noqa: F401

from . import meta_arch  # noqa: F401
from .build import backbone, image_models  # noqa: F401
from .build.registry import report_taken
from .data.datasets import register_all

report_taken(register_all())
