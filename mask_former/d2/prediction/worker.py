"""A model at work on a list of pictures: reading, the model and writing overlap."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from detectron2.config import CfgNode
from PIL import Image

from ..command_line.importing import import_code
from ..errors import InputError
from ..predictor import Predictor, Sample, predict_batched
from ..run.files import replacing
from ..visualization.drawing import FastVisualizer, enlarge
from ..visualization.regions import Found, class_metadata, find_regions
from ..visualization.saving import class_picture, color_picture, id_picture, table
from ..weights.record import load_trained_config
from .journal import Row
from .sources import Item, Reader, readers

FORMATS = ("label", "color", "overlay", "coco", "panoptic")
_PICTURES = {"label": class_picture, "color": color_picture, "panoptic": id_picture}
_THUMBNAIL = 256  # pixels of its longer side

T = TypeVar("T")


class Job(NamedTuple):
    """What is to be done with each picture."""

    weights: str
    output: Path
    """The folder of the results."""
    config_file: str | None = None
    opts: Sequence[str] = ()
    formats: Sequence[str] = ("label",)
    """Of ``FORMATS``."""
    thumbnails: bool = False
    """Write small overlays, of which the gallery is made."""
    min_score: float = 0.5
    """Instances of a lower score are left out."""
    batch_size: int = 1
    """Pictures that go through the model together, at most."""
    workers: int = 2
    """Threads that read, and as many that write."""
    imports: Sequence[str] = ()
    """Modules and files with what the configuration names of the user's own."""

    def configuration(self) -> CfgNode:
        """The model's, without results that nobody will see.

        Raises:
            InputError: a file or a key is bad, or the model does not give what is to be written.
        """
        import_code(self.imports)  # also where an actor of Ray begins
        labels = ["MODEL.MASK_FORMER.TEST.SEM_SEG_OUTPUT", "labels"]
        opts = ["MODEL.WEIGHTS", self.weights, *labels, *self.opts]
        cfg = load_trained_config(self.config_file, opts)
        test = cfg.MODEL.MASK_FORMER.TEST
        if test.PANOPTIC_ON:  # the segments are what is drawn and saved
            test.SEMANTIC_ON = test.INSTANCE_ON = False
        elif "panoptic" in self.formats:
            raise InputError(
                "--format panoptic needs panoptic segments, but MODEL.MASK_FORMER.TEST.PANOPTIC_ON "
                "is False: turn it on, or choose another format"
            )
        return cfg


class _Loaded(NamedTuple):
    item: Item
    picture: np.ndarray | None
    """[H, W, 3], BGR; None: nothing will be drawn on it."""
    sample: Sample


class Worker:
    """A model that is loaded once and turns items into files and rows."""

    def __init__(self, job: Job, cfg: CfgNode) -> None:
        """Loads the model of a configuration, that of the job."""
        Image.MAX_IMAGE_PIXELS = None  # large pictures are what tiles are for
        self._job = job
        self._predictor = Predictor(cfg)
        self._metadata = class_metadata(cfg)
        self._num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        # Of pictures that need tiles, one at a time is enough for the memory.
        self._window = 1 if any(cfg.MODEL.MASK_FORMER.TEST.TILES) else 4 * job.batch_size

    def rows(self, items: Sequence[Item]) -> Iterator[Row]:
        """The row of each item, in their order, once its files are written.

        Raises:
            InputError: a result cannot be written.
        """
        with (
            ThreadPoolExecutor(self._job.workers, "read") as reading,
            ThreadPoolExecutor(self._job.workers, "write") as writing,
        ):
            tasks = self._tasks(items, reading)
            try:
                for row in in_order(writing, tasks, self._window):
                    yield row.result()
            finally:  # of a run that ends early
                reading.shutdown(cancel_futures=True)
                writing.shutdown(cancel_futures=True)

    def _tasks(self, items: Sequence[Item], pool: Executor) -> Iterator[Callable[[], Row]]:
        """What writes the results of each item and gives its row, in their order."""
        loading = (
            partial(self._load, item, reader)
            for item, reader in zip(items, readers(items), strict=True)
        )
        waiting: deque[_Loaded | Row] = deque()

        def samples() -> Iterator[Sample]:
            for future in in_order(pool, loading, self._window):
                waiting.append(loaded := future.result())
                if isinstance(loaded, _Loaded):
                    yield loaded.sample

        size = self._job.batch_size
        for result in predict_batched(self._predictor.model, samples(), size, self._window):
            while not isinstance(loaded := waiting.popleft(), _Loaded):
                yield partial(dict, loaded)
            yield partial(self._write, loaded.item, loaded.picture, result)
        yield from (partial(dict, row) for row in waiting if not isinstance(row, _Loaded))

    def _load(self, item: Item, reader: Reader) -> _Loaded | Row:
        """A picture for the model, or the row of one that is bad."""
        try:
            picture = reader()
            sample = self._predictor.sample(picture)
        except InputError as error:
            return {"name": item.name, "file": item.file, "error": InputError.sentence(error)}
        drawn = self._job.thumbnails or "overlay" in self._job.formats
        return _Loaded(item, picture if drawn else None, sample)

    def _write(self, item: Item, picture: np.ndarray | None, result: dict[str, Any]) -> Row:
        """Writes the files of a picture."""
        if "instances" in result:
            instances = result["instances"]
            result = {**result, "instances": instances[instances.scores >= self._job.min_score]}
        found = find_regions(result, self._metadata)
        size = _size(result)
        formats = self._job.formats
        files = {kind: f"{kind}/{item.result}.png" for kind in _PICTURES if kind in formats}
        for kind, file in files.items():
            self._save(file, _PICTURES[kind](found, size, self._num_classes), "PNG")
        if picture is not None:
            overlay = _overlay(picture, found)
            if "overlay" in formats:
                files["overlay"] = f"overlay/{item.result}.jpg"
                self._save(files["overlay"], overlay, "JPEG", quality=90)
            if self._job.thumbnails:
                files["thumbnail"] = f"thumbnail/{item.result}.jpg"
                overlay.thumbnail((_THUMBNAIL, _THUMBNAIL))
                self._save(files["thumbnail"], overlay, "JPEG", quality=80)
        head = {"name": item.name, "file": item.file, "files": files}
        return {**head, **table(found, size, with_masks="coco" in formats)}

    def _save(self, file: str, picture: Image.Image, kind: str, **options: Any) -> None:
        path = self._job.output / file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as opened:
                picture.save(opened, kind, **options)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error.strerror or error}); make room, or mend the "
                "rights of the folder: the same command goes on then"
            ) from error


def local_rows(job: Job, cfg: CfgNode, items: Sequence[Item]) -> Iterator[Row]:
    """The rows of all items, made by this process."""
    yield from Worker(job, cfg).rows(items)


def in_order(pool: Executor, calls: Iterable[Callable[[], T]], ahead: int) -> Iterator[Future[T]]:
    """Has calls made by a pool, and gives each when it is done or so many others wait behind it."""
    waiting: deque[Future[T]] = deque()
    for call in calls:
        waiting.append(pool.submit(call))
        while len(waiting) > ahead or (waiting and waiting[0].done()):
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _size(result: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the result of a picture."""
    if "panoptic_seg" in result:
        return tuple(result["panoptic_seg"][0].shape)
    if "sem_seg" in result:
        return tuple(result["sem_seg"].shape[-2:])
    return result["instances"].image_size


def _overlay(picture: np.ndarray, found: Found) -> Image.Image:
    """The picture [H, W, 3], BGR, with what was found; a small one is enlarged."""
    picture, found = enlarge(picture, found)
    drawn = FastVisualizer(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)).draw(found)
    return Image.fromarray(drawn.get_image())
