"""The original's path of the configuration's keys."""

from .d2.config import add_mask_former_config as add_mask_former_config
