"""The order of the training data: one for all processes and workers, whatever was interrupted.

Sample number p of a run is the same picture with the same augmentations each time: the order comes
from the seed, and the generators are seeded with the seed and p before the picture is mapped.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.data.build import trivial_batch_collator
from detectron2.data.common import DatasetFromList
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from ..data.checks import telling_assertions
from ..data.reading import picture_size, read_label_map
from ..errors import InputError
from .randomness import reseeded

Sample = dict[str, Any]
Mapper = Callable[[Sample], Sample | None]


class OrderedLoader:
    """Endless batches of mapped samples, of which this process gets its share.

    Args:
        samples: in Detectron2's format, before mapping.
        mapper: called with a copy of a sample; where it gives None, another sample is drawn.
        order: gives endless numbers of samples for a seed, the same in every process.
        seed: may be set until the loader is asked for a batch, as may ``first_batch``.
        batch_size: samples of a batch of all processes together.
        num_workers: loader processes; none changes what is loaded.
        group: put wide and tall pictures into batches of their own.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        mapper: Mapper,
        order: Callable[[int], Iterator[int]],
        *,
        seed: int,
        batch_size: int,
        num_workers: int = 0,
        group: bool = False,
    ) -> None:
        self.num_pictures = len(samples)
        self.seed = seed
        self.first_batch = 0
        self._samples = DatasetFromList(samples, copy=False)
        self._mapper = mapper
        self._order = order
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._group = group
        self._wide: dict[int, bool] = {}

    def __iter__(self) -> Iterator[list[Sample]]:
        """Starts its workers when the first batch is asked for."""
        batches = islice(self._batches(), self.first_batch, None)
        yield from DataLoader(
            Mapped(self._samples, self._mapper, self.seed),
            batch_sampler=batches,  # any iterable serves
            num_workers=self._num_workers,
            collate_fn=trivial_batch_collator,
            generator=torch.Generator(),  # or it would draw a number of the model's
        )

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        """This process's part of each batch: positions in the order, and numbers of samples."""
        rank, world = comm.get_rank(), comm.get_world_size()
        waiting: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        for position, index in enumerate(self._order(self.seed)):
            batch = waiting[self._group and self._is_wide(index)]
            batch.append((position, index))
            if len(batch) == self._batch_size:
                yield batch[rank::world]
                batch.clear()

    def _is_wide(self, index: int) -> bool:
        if index not in self._wide:
            sample = self._samples[index]
            width, height = sample.get("width"), sample.get("height")
            if width is None or height is None:
                try:
                    height, width = picture_size(sample["file_name"])
                except InputError:  # the mapper will say so, in the batch of the picture
                    width = height = 0
            self._wide[index] = width > height
        return self._wide[index]


class Mapped(Dataset[Sample]):
    """Samples by their position in the order and their number."""

    def __init__(self, samples: Sequence[Sample], mapper: Mapper, seed: int) -> None:
        """Draws depend on the seed and the position alone.

        Args:
            samples: in Detectron2's format.
            mapper: where it gives None, another sample is drawn.
            seed: of the run.
        """
        self._samples, self._mapper, self._seed = samples, mapper, seed

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        position, index = place
        with reseeded(self._seed, 0, position):
            while (sample := self._mapper(self._samples[index])) is None:
                index = random.randrange(len(self._samples))
        return sample


def build_train_loader(cfg: CfgNode, mapper: Mapper) -> OrderedLoader:
    """The loader of DATASETS.TRAIN as DATALOADER and SOLVER.IMS_PER_BATCH describe it.

    Args:
        cfg: with a SEED of 0 or more, or one is drawn.
        mapper: of training samples.

    Raises:
        InputError: a data set cannot be loaded, or no picture has anything to learn.
    """
    with telling_assertions(*cfg.DATASETS.TRAIN):
        samples = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
    return OrderedLoader(
        samples,
        mapper,
        _order(cfg.DATALOADER, samples, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE),
        seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        group=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
    )


def _order(
    options: CfgNode, samples: Sequence[Sample], ignored: int = 255
) -> Callable[[int], Iterator[int]]:
    """The order of ``DATALOADER.SAMPLER_TRAIN``, before Detectron2 shares it among processes."""
    name, size = options.SAMPLER_TRAIN, len(samples)
    if name == "TrainingSampler":
        return lambda seed: TrainingSampler(size, seed=seed)._infinite_indices()
    if name != "RepeatFactorTrainingSampler":
        raise InputError(
            f"DATALOADER.SAMPLER_TRAIN is {name!r}; give TrainingSampler or "
            "RepeatFactorTrainingSampler"
        )
    if options.REPEAT_THRESHOLD <= 0:
        raise InputError(
            f"DATALOADER.REPEAT_THRESHOLD is {options.REPEAT_THRESHOLD:g}, at which no picture is "
            "repeated; give the share of pictures below which a class is rare, for example 0.001"
        )
    counted = [{"annotations": _segments(sample, ignored)} for sample in samples]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        counted, options.REPEAT_THRESHOLD
    )
    return lambda seed: RepeatFactorTrainingSampler(factors, seed=seed)._infinite_indices()


def _segments(sample: Sample, ignored: int) -> list[dict[str, int]]:
    """What a sample has of each class: annotations, segments, or labels in its map."""
    for key in ("annotations", "segments_info"):
        if key in sample:
            learnt = [each for each in sample[key] if not each.get("iscrowd")]
            return [{"category_id": each["category_id"]} for each in learnt]
    if "sem_seg_file_name" not in sample:
        raise InputError(
            f"DATALOADER.SAMPLER_TRAIN RepeatFactorTrainingSampler counts classes, of which the "
            f"sample of image {sample.get('file_name')} tells nothing; give TrainingSampler"
        )
    values = sample.get("label_values")
    labels = np.unique(read_label_map(sample["sem_seg_file_name"], None, ignored, values))
    return [{"category_id": int(label)} for label in labels if label != ignored]
