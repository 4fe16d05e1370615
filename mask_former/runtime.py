"""Runs an exported model with NumPy, Pillow and ONNX Runtime alone; copy the file where you like.

    model = load("model.onnx")
    result = model("street.jpg")
    result.labels, result.segments, result.overlay("street.jpg").save("overlay.png")

``python runtime.py model.onnx street.jpg overlay.png`` does the same.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageOps

METADATA_KEY = "mask_former"
"""Under which an exported file keeps its information."""
VOID = -1
"""The label of pixels that belong to no segment."""

Picture = str | Path | Image.Image | np.ndarray
"""A file, or pixels [H, W, 3] (uint8) in the order RGB."""
Arrays = dict[str, np.ndarray]


class Information(NamedTuple):
    """What a file says of its model."""

    task: str
    """semantic, panoptic, instance or raw."""
    names: Sequence[str]
    """Of the K classes."""
    colors: Sequence[Sequence[int]]
    """Of the K classes; red, green and blue in 0..255."""
    thing_ids: Sequence[int]
    """Classes whose segments stay separate."""
    channels: str
    """RGB or BGR, as the model takes them."""
    size: Sequence[int] | None
    """Height and width that pictures are resized to; None: by the next two."""
    shortest: int
    """What the shorter side is resized to; 0: the picture stays as it is."""
    longest: int
    """What the longer side may become at most."""

    @classmethod
    def read(cls, text: str) -> "Information":
        """From JSON."""
        return cls(**json.loads(text))

    def write(self) -> str:
        """As JSON."""
        return json.dumps(self._asdict())


class Segment(NamedTuple):
    """A region of one class, or one object."""

    id: int
    """From 1 on."""
    category_id: int
    """0..K-1."""
    category: str
    isthing: bool
    score: float
    area: int
    """Pixels."""
    mask: np.ndarray
    """[H, W]; bool."""


class Result(NamedTuple):
    """What was found in a picture."""

    labels: np.ndarray
    """[H, W]; int32, the class of each pixel, or ``VOID``. Of instances the best one counts."""
    segments: list[Segment]
    """Best first where they are instances; classes, where the task is semantic."""
    colors: Sequence[Sequence[int]]
    """Of the classes."""

    def overlay(self, picture: Picture, opacity: float = 0.6) -> Image.Image:
        """The picture with the segments painted and named on it."""
        image = np.asarray(read_picture(picture)).astype(np.float32)
        for segment in reversed(self.segments):
            color = np.asarray(self.colors[segment.category_id], np.float32)
            image[segment.mask] += opacity * (color - image[segment.mask])
            image[edge(segment.mask)] = color * 0.6
        drawn = Image.fromarray(image.round().astype(np.uint8))
        pen = ImageDraw.Draw(drawn)
        for segment in self.segments:
            rows, columns = np.nonzero(segment.mask)
            place = int(np.median(columns)), int(np.median(rows))
            text = segment.category + (f" {segment.score:.0%}" if segment.isthing else "")
            pen.text(
                place, text, (255, 255, 240), anchor="mm", stroke_width=1, stroke_fill=(0, 0, 0)
            )
        return drawn


class Model:
    """Pictures to results; ``load`` makes one from a file."""

    def __init__(self, run: Callable[[Arrays], Sequence[np.ndarray]], info: Information) -> None:
        """Wraps a file that some runtime has loaded.

        Args:
            run: ``image`` [B, 3, H, W], ``height`` and ``width`` to the file's tensors.
            info: what the file says of itself.
        """
        self.run = run
        self.info = info

    def __call__(self, picture: Picture) -> Result:
        """The result of a picture, in its size.

        Raises:
            ValueError: the file gives raw logits, which ``tensors`` has.
        """
        if self.info.task == "raw":
            raise ValueError(
                "the file was exported with --raw and gives logits, no result; call tensors()"
            )
        pixels, *table = (tensor[0] for tensor in self.tensors(picture))
        if self.info.task == "semantic":
            labels = pixels.astype(np.int32)
            scores = table[0]
            segments = [
                self._segment(i, int(label), float(scores[labels == label].mean()), labels == label)
                for i, label in enumerate(np.unique(labels))
            ]
            return Result(labels, segments, self.info.colors)
        classes, scores, _ = table
        present = np.flatnonzero(classes >= 0)
        masks = pixels if self.info.task == "instance" else present[:, None, None] + 1 == pixels
        segments = [
            self._segment(int(i), int(classes[i]), float(scores[i]), masks[i].astype(bool))
            for i in present
        ]
        labels = np.full(pixels.shape[-2:], VOID, np.int32)
        for segment in reversed(segments):
            labels[segment.mask] = segment.category_id
        return Result(labels, segments, self.info.colors)

    def tensors(self, picture: Picture) -> Sequence[np.ndarray]:
        """What the file gives for a picture, a batch of one."""
        return self.run(self.feed(picture))

    def feed(self, picture: Picture) -> Arrays:
        """The file's inputs for a picture, a batch of one; the result is to have its size."""
        image = read_picture(picture)
        sides = {"height": image.height, "width": image.width}
        return {
            "image": self.prepare(image)[None],
            **{name: np.asarray(side, np.int64) for name, side in sides.items()},
        }

    def prepare(self, image: Image.Image) -> np.ndarray:
        """The picture as the file takes it, [3, H, W]: resized, in the model's channels."""
        info = self.info
        height, width = info.size or shortest_edge(
            (image.height, image.width), info.shortest, info.longest
        )
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        array = np.asarray(image)
        array = array[:, :, ::-1] if info.channels == "BGR" else array
        return np.ascontiguousarray(array.transpose(2, 0, 1))

    def _segment(self, index: int, label: int, score: float, mask: np.ndarray) -> Segment:
        return Segment(
            index + 1,
            label,
            self.info.names[label],
            label in self.info.thing_ids,
            score,
            int(mask.sum()),
            mask,
        )


def load(path: str | Path, providers: Sequence[str] = (), threads: int = 0) -> Model:
    """A model from an ONNX file.

    Args:
        path: of the file.
        providers: of ONNX Runtime, best first; default: those that it has.
        threads: how many may compute; 0: as many as there are cores.

    Raises:
        ValueError: there is no such file, or `mask_former export` has not written it.
    """
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidProtobuf, NoSuchFile

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    given = list(providers) or onnxruntime.get_available_providers()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=given)
    except (Fail, InvalidProtobuf, NoSuchFile) as error:
        raise ValueError(
            f"{path} cannot be loaded ({error}); name what `mask_former export --format onnx` wrote"
        ) from error
    metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    if METADATA_KEY not in metadata:
        raise ValueError(
            f"{path} has no metadata {METADATA_KEY!r}: it was not exported by "
            "`mask_former export`; export it again"
        )
    taken = {tensor.name for tensor in session.get_inputs()}

    def run(feed: Arrays) -> Sequence[np.ndarray]:
        given: dict[str, Any] = {name: array for name, array in feed.items() if name in taken}
        return session.run(None, given)

    return Model(run, Information.read(metadata[METADATA_KEY]))


def read_picture(picture: Picture) -> Image.Image:
    """The picture in RGB, turned as its file says."""
    if isinstance(picture, np.ndarray):
        return Image.fromarray(picture).convert("RGB")
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    with Image.open(picture) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def shortest_edge(size: tuple[int, int], shortest: int, longest: int) -> tuple[int, int]:
    """Height and width after resizing, as Detectron2's ``ResizeShortestEdge`` has them."""
    if not shortest:
        return size
    scale = shortest / min(size)
    sides = [shortest if side == min(size) else scale * side for side in size]
    if max(sides) > longest:
        shrink = longest / max(sides)
        sides = [side * shrink for side in sides]
    height, width = (max(1, int(side + 0.5)) for side in sides)
    return height, width


def edge(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask [H, W] whose right or lower neighbour is outside."""
    found = np.zeros_like(mask)
    found[:, :-1] = mask[:, :-1] & ~mask[:, 1:]
    found[:-1] |= mask[:-1] & ~mask[1:]
    return found


def main(argv: Sequence[str]) -> None:
    """Prints the segments of a picture and, if a third file is named, writes its overlay."""
    if len(argv) not in (2, 3):
        raise SystemExit("usage: python runtime.py MODEL.onnx PICTURE [OVERLAY]")
    try:
        result = load(argv[0])(argv[1])
        for segment in result.segments:
            print(f"{segment.category}\t{segment.score:.3f}\t{segment.area} pixels")
        if len(argv) == 3:
            result.overlay(argv[1]).save(argv[2])
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
