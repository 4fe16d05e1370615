"""The losses on data that are not trained on."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.data.build import trivial_batch_collator
from detectron2.data.common import DatasetFromList
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader

from .accumulation import local_counts, unwrapped
from .data_order import Mapped


def validation_losses(
    model: nn.Module,
    samples: Sequence[dict[str, Any]],
    mapper: Callable[[dict[str, Any]], Any],
    num_workers: int = 0,
) -> dict[str, float]:
    """The mean of each loss over pictures, each of which counts for itself.

    Augmentations are those of training, but drawn alike in each call; dropout is off, and norms use
    their running statistics.

    Args:
        model: also wrapped for distributed training.
        samples: in Detectron2's format; the processes share them.
        mapper: that of training.
        num_workers: loader processes.

    Returns:
        ``loss``, the sum, and each loss by name; the same in every process.
    """
    core = unwrapped(model)
    places = [[(i, i)] for i in range(comm.get_rank(), len(samples), comm.get_world_size())]
    loader = DataLoader(
        Mapped(DatasetFromList(list(samples), copy=False), mapper, seed=0),
        batch_sampler=places,
        num_workers=num_workers,
        collate_fn=trivial_batch_collator,
        generator=torch.Generator(),  # or it would draw a number of the model's
    )
    sums: defaultdict[str, float] = defaultdict(float)
    with _giving_losses(core), torch.no_grad():
        for batch in loader:
            with local_counts(core, batch):
                for name, loss in core(batch).items():
                    sums[name] += float(loss)
    of_all = comm.all_gather(dict(sums))
    names = {name: None for own in of_all for name in own}  # a process may have no picture
    means = {name: sum(own.get(name, 0.0) for own in of_all) / len(samples) for name in names}
    return {"loss": sum(means.values()), **means}


@contextmanager
def _giving_losses(model: Any) -> Iterator[None]:
    """Parts in evaluation mode, under a model and a head that give losses all the same."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    model.training = model.sem_seg_head.training = True
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
