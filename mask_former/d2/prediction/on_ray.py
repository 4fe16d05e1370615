"""The same work on Ray Data: actors with the model on what machines there are."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode

from ..errors import InputError
from .journal import Row
from .sources import Item
from .worker import Job, Worker

_BLOCK = 32
"""Pictures that an actor gets at once: few are lost when it dies, and it still can read ahead."""


class Actor:
    """A worker of Ray Data."""

    def __init__(self, job: Job) -> None:
        """Loads the model."""
        self._worker = Worker(job, job.configuration())

    def __call__(self, block: dict[str, Any]) -> dict[str, list[str]]:
        """The rows of a block of items, both as JSON."""
        items = [Item(*_tuples(json.loads(text))) for text in block["item"]]
        return {"row": [json.dumps(row) for row in self._worker.rows(items)]}


def _tuples(values: list[Any]) -> list[Any]:
    return [tuple(value) if isinstance(value, list) else value for value in values]


def ray_rows(job: Job, cfg: CfgNode, items: Sequence[Item], actors: int = 0) -> Iterator[Row]:
    """The rows of all items as they are finished, in any order.

    The cluster is that of the environment (``RAY_ADDRESS``), else the machine. All its machines
    must see the pictures, the weights and the folder of the results under the same paths, and have
    this package installed.

    Args:
        job: what is done with each picture.
        cfg: the configuration on this machine; each actor makes its own.
        items: the pictures.
        actors: models at work; 0: one for each GPU of the cluster or, without any, one for every
            ``workers`` of its cores.

    Raises:
        InputError: Ray is not installed, or an actor has raised it.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(f'--ray needs Ray ({error}): pip install -e ".[ray]"') from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    resources = ray.cluster_resources()
    gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    actors = actors or gpus or max(1, cores // job.workers)
    share = cores / actors / 2  # the rest is for reading and for Ray itself
    # More than one must be a whole number.
    needs: dict[str, Any] = (
        {"num_gpus": min(1.0, gpus / actors)} if gpus else {"num_cpus": share // 1 or share}
    )
    rows = ray.data.from_items([{"item": json.dumps(item)} for item in items]).map_batches(
        Actor,
        fn_constructor_args=(job,),
        batch_size=_BLOCK,
        concurrency=actors,
        **needs,
    )
    try:
        for row in rows.iter_rows():
            yield json.loads(row["row"])
    except ray.exceptions.RayError as error:
        if InputError.__name__ in str(error):  # of an actor
            raise InputError(InputError.sentence(error)) from error
        raise
