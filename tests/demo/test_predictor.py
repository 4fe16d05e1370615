"""What the demo's predictor gives serves the drawers of other packages, too."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.structures import Instances
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import Visualizer

from mask_former.d2.config import load_config
from mask_former.demo.predictor import VisualizationDemo
from tests.demo.running import CONFIG, INSTANCE


@pytest.fixture(scope="module")
def shown(weights: list[str]) -> VisualizationDemo:
    cfg = load_config(str(CONFIG), ["MODEL.DEVICE", "cpu", *weights, *INSTANCE])
    return VisualizationDemo(cfg)


@pytest.fixture(scope="module")
def image(pictures: list[Path]) -> np.ndarray:
    return cv2.imread(str(pictures[0]))


@pytest.fixture(scope="module")
def instances(shown: VisualizationDemo, image: np.ndarray) -> Instances:
    return shown.predict(image)["instances"]


def test_arrays_that_supervision_reads(instances: Instances) -> None:
    """``Detections.from_detectron2`` takes these four, and holds each to the number of boxes."""
    boxes = instances.pred_boxes.tensor.cpu().numpy()
    scores = instances.scores.cpu().numpy()
    masks = instances.pred_masks.cpu().numpy().astype(bool)
    classes = instances.pred_classes.cpu().numpy().astype(int)
    count = len(instances)
    assert count > 0
    assert (boxes.shape, masks.shape) == ((count, 4), (count, 128, 128))
    assert scores.shape == classes.shape == (count,)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert ((classes >= 0) & (classes < 7)).all()
    for box, mask in zip(boxes, masks, strict=True):
        x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
        assert box.tolist() == [x, y, x + width, y + height]


def test_detectron2s_visualizers(
    shown: VisualizationDemo, image: np.ndarray, instances: Instances
) -> None:
    rgb = np.ascontiguousarray(image[:, :, ::-1])
    picture = Visualizer(rgb, shown.metadata).draw_instance_predictions(instances.to("cpu"))
    video = VideoVisualizer(shown.metadata)
    frames = [video.draw_instance_predictions(rgb, instances.to("cpu")) for _ in range(2)]
    for drawn in (picture, *frames):
        assert (drawn.get_image() != rgb).mean() > 0.3
