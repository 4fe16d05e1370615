"""Pictures and videos with the predictions of a model drawn over them."""

from collections.abc import Iterator

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.visualizer import VisImage

from ..d2.predictor import Predictor
from ..d2.visualization.drawing import FastVisualizer, SteadyVisualizer, enlarge
from ..d2.visualization.regions import (
    Found,
    Predictions,
    class_metadata,
    find_regions,
)
from ..d2.visualization.tracker import Tracker


class VisualizationDemo:
    """Runs a model and draws what it finds.

    Args:
        cfg: the whole configuration; ``DATASETS.TEST[0]`` gives class names and colours.
        semantic_threshold: pixels whose best semantic score is lower stay unpainted.
        instance_threshold: instances of a lower score are left out.
        fast: draw with OpenCV instead of matplotlib.
    """

    def __init__(
        self,
        cfg: CfgNode,
        semantic_threshold: float = 0.0,
        instance_threshold: float = 0.0,
        fast: bool = False,
    ) -> None:
        self.metadata = class_metadata(cfg)
        self.semantic_threshold = semantic_threshold
        self.instance_threshold = instance_threshold
        self.visualizer = FastVisualizer if fast else SteadyVisualizer
        self.predictor = Predictor(cfg)

    def run_on_image(self, image: np.ndarray) -> tuple[Predictions, VisImage | FastVisualizer]:
        """Predictions for an image and the image with them drawn over it.

        Args:
            image: [H, W, 3]; BGR, uint8.

        Returns:
            What the model gives for one image, and the drawing, whose ``get_image()`` is RGB and,
            of an image below 400 pixels, some whole number of times as large.
        """
        predictions = self.predict(image)
        return predictions, self.draw(image, predictions)

    def predict(self, image: np.ndarray) -> Predictions:
        """What the model gives for an image [H, W, 3] (BGR, uint8), less unsure instances."""
        predictions = self.predictor(image)
        if "instances" in predictions:
            instances = predictions["instances"]
            predictions["instances"] = instances[instances.scores >= self.instance_threshold]
        return predictions

    def find(self, predictions: Predictions, tracker: Tracker | None = None) -> Found:
        """The regions of a picture; a tracker keeps their colours from frame to frame."""
        return find_regions(predictions, self.metadata, self.semantic_threshold, tracker)

    def draw(self, image: np.ndarray, predictions: Predictions) -> VisImage | FastVisualizer:
        """Panoptic segments if there are any, else semantic labels and instances.

        Args:
            image: [H, W, 3]; BGR, uint8.
            predictions: for this image, of this size.
        """
        return self.draw_regions(image, self.find(predictions))

    def draw_regions(self, image: np.ndarray, found: Found) -> VisImage | FastVisualizer:
        """Regions of an image [H, W, 3] (BGR, uint8) over it; a small one is enlarged."""
        return self._draw(*enlarge(image, found))

    def _draw(self, image: np.ndarray, found: Found) -> VisImage | FastVisualizer:
        return self.visualizer(image[:, :, ::-1]).draw(found)

    def run_on_video(self, capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
        """Frames [H, W, 3], BGR, with predictions drawn over them, until the video ends.

        A thing keeps its colour from frame to frame, and frames keep their size.
        """
        tracker = Tracker()
        while (frame := capture.read()[1]) is not None:
            drawing = self._draw(frame, self.find(self.predict(frame), tracker))
            yield cv2.cvtColor(drawing.get_image(), cv2.COLOR_RGB2BGR)
