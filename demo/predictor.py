"""Pictures and videos with the predictions of a model drawn over them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.utils.colormap import colormap
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer
from torch import Tensor

from mask_former.d2.errors import InputError
from mask_former.d2.predictor import Predictor

Predictions = dict[str, Any]

# Changes of lightness, such that neighbours in the list can be told apart.
_SHADES = (0.0, -0.4, 0.3, -0.2, 0.15, -0.55)


class VisualizationDemo:
    """Runs a model and draws what it finds with Detectron2's visualizers.

    Args:
        cfg: the whole configuration; ``DATASETS.TEST[0]`` gives class names and colours.
        instance_mode: how Detectron2 draws things.
        semantic_threshold: pixels whose best semantic score is lower stay unpainted.
    """

    def __init__(
        self,
        cfg: CfgNode,
        instance_mode: ColorMode = ColorMode.IMAGE,
        semantic_threshold: float = 0.0,
    ) -> None:
        self.metadata = class_metadata(cfg)
        self.instance_mode = instance_mode
        self.semantic_threshold = semantic_threshold
        self.predictor = Predictor(cfg)

    def run_on_image(self, image: np.ndarray) -> tuple[Predictions, VisImage]:
        """Predictions for an image and the image with them drawn over it.

        Args:
            image: [H, W, 3]; BGR, uint8.

        Returns:
            What the model gives for one image, and the drawing, which is RGB.
        """
        predictions = self.predictor(image)
        return predictions, self.draw(image, predictions)

    def draw(self, image: np.ndarray, predictions: Predictions) -> VisImage:
        """Panoptic segments if there are any, else semantic labels and instances.

        Args:
            image: [H, W, 3]; BGR, uint8.
            predictions: for this image, of this size.
        """
        visualizer = SteadyVisualizer(image[:, :, ::-1], self.metadata, 1.0, self.instance_mode)
        if "panoptic_seg" in predictions:
            ids, segments = predictions["panoptic_seg"]
            return visualizer.draw_panoptic_seg(ids.cpu(), segments)
        if "sem_seg" in predictions:
            visualizer.draw_sem_seg(self._labels(predictions["sem_seg"]))
        if "instances" in predictions:
            visualizer.draw_instance_predictions(predictions["instances"].to("cpu"))
        return visualizer.output

    def run_on_video(self, capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
        """Frames [H, W, 3], BGR, with predictions drawn over them, until the video ends.

        A thing keeps its colour from frame to frame.
        """
        visualizer = VideoVisualizer(self.metadata, self.instance_mode)
        while (frame := capture.read()[1]) is not None:
            drawing = self._draw_frame(visualizer, frame, self.predictor(frame))
            yield cv2.cvtColor(drawing.get_image(), cv2.COLOR_RGB2BGR)

    def _draw_frame(
        self, visualizer: VideoVisualizer, frame: np.ndarray, predictions: Predictions
    ) -> VisImage:
        frame = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if "panoptic_seg" in predictions:
            ids, segments = predictions["panoptic_seg"]
            return visualizer.draw_panoptic_seg_predictions(frame, ids.cpu(), segments)
        if "instances" in predictions:
            return visualizer.draw_instance_predictions(frame, predictions["instances"].to("cpu"))
        return visualizer.draw_sem_seg(frame, self._labels(predictions["sem_seg"]))

    def _labels(self, scores: Tensor) -> Tensor:
        return label_map(scores, self.semantic_threshold).cpu()


class SteadyVisualizer(Visualizer):
    """Detectron2's visualizer, with the same colours each time and labels in their place.

    Detectron2 shifts the colour of a thing at random, often to that of another class, writes the
    name of stuff at the median of its pixels, often upon something else, and cuts off labels at the
    edges.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._drawn: Counter[tuple[float, ...]] = Counter()

    def _jitter(self, color: Sequence[float]) -> tuple[float, ...]:
        """Another shade of a class's colour (RGB in 0..1) for each of its things."""
        number = self._drawn[tuple(color)]
        self._drawn[tuple(color)] += 1
        return self._change_color_brightness(color, _SHADES[number % len(_SHADES)])

    def draw_binary_mask(
        self, binary_mask: np.ndarray, color: Sequence[float], *, text: str, **kwargs: Any
    ) -> VisImage:
        """Draws a mask [H, W] as Detectron2 does, with its label where it is widest."""
        super().draw_binary_mask(binary_mask, color, **kwargs)
        framed = np.pad(binary_mask.astype(np.uint8), 1)  # no label at the edge of the picture
        depth = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        return self.draw_text(text, (x, y), color=self._change_color_brightness(color, 0.7))

    def draw_text(self, *args: Any, **kwargs: Any) -> VisImage:
        """Draws a label as Detectron2 does, then moves it inside the picture."""
        output = super().draw_text(*args, **kwargs)
        label = output.ax.texts[-1]
        label.update_bbox_position_size(renderer := output.canvas.get_renderer())
        # In pixels of the drawing; y points up, but down in the label's own position.
        box = label.get_bbox_patch().get_window_extent(renderer)
        right = max(0.0, -box.x0) - max(0.0, box.x1 - output.width * output.scale)
        up = max(0.0, -box.y0) - max(0.0, box.y1 - output.height * output.scale)
        x, y = label.get_position()
        label.set_position((x + right / output.scale, y - up / output.scale))
        return output


def label_map(scores: Tensor, threshold: float) -> Tensor:
    """The class of the highest score; K, which visualizers leave out, where that is too low.

    Args:
        scores: [K, H, W]; semantic scores.
        threshold: the lowest score of a painted pixel.

    Returns:
        [H, W]; int64, 0..K.
    """
    best, labels = scores.max(dim=0)
    return labels.masked_fill(best < threshold, len(scores))


def class_metadata(cfg: CfgNode) -> Metadata:
    """Class names and colours of ``DATASETS.TEST[0]``, with numbers for those it lacks.

    Raises:
        InputError: the data set has other classes than the model.
    """
    name = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "__unused"
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    known = vars(MetadataCatalog.get(name))
    stuff = known.get("stuff_classes", [f"class {i}" for i in range(num_classes)])
    if len(stuff) != num_classes:
        raise InputError(
            f"data set {name} has {len(stuff)} classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is "
            f"{num_classes}; name a data set of the model's classes in DATASETS.TEST"
        )
    things = known.get("thing_classes", stuff)
    names = {"stuff_classes": stuff, "thing_classes": things}
    colors = {"stuff_colors": _palette(len(stuff)), "thing_colors": _palette(len(things))}
    return Metadata(**{**names, **colors, **known})


def _palette(size: int) -> list[np.ndarray]:
    colors = colormap(rgb=True)
    return [colors[i % len(colors)] for i in range(size)]
