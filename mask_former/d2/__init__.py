"""The Detectron2 glue. Importing it registers the architectures and the data sets, once."""

# ruff: noqa: E402
from mask_former.d2.requirements import require_detectron2

require_detectron2()

# Registers build_resnet_deeplab_backbone, the backbone of the R101c models.
import detectron2.projects.deeplab  # noqa: F401

from mask_former.d2 import backbone, meta_arch  # noqa: F401
from mask_former.d2.data.datasets import register_all
from mask_former.d2.registry import report_taken

report_taken(register_all())
