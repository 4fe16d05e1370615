"""The original's path of ``VisualizationDemo``."""

from mask_former.demo.predictor import VisualizationDemo

__all__ = ["VisualizationDemo"]
