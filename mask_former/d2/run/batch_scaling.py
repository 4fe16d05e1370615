"""Training with another batch size than that of a configuration, by one rule."""

import math

from detectron2.config import CfgNode
from tabulate import tabulate

from ..errors import InputError
from ..solver import flat_settings


def scale_batch(cfg: CfgNode, batch: int) -> str:
    """Trains with another batch size by the linear rule: rates grow, and iterations shrink, as it.

    The rule is that of Goyal et al. (2017), which Detectron2 has for numbers of GPUs.

    Args:
        cfg: changed in place.
        batch: pictures in a batch of all processes.

    Returns:
        A table of what has changed.

    Raises:
        InputError: there is no such batch.
    """
    solver, test, before = cfg.SOLVER, cfg.TEST, cfg.SOLVER.IMS_PER_BATCH
    if batch < 1 or before < 1:
        raise InputError(f"--batch is {batch} and SOLVER.IMS_PER_BATCH {before}; give 1 or more")
    factor = batch / before
    old = flat_settings(solver) | {"TEST.EVAL_PERIOD": str(test.EVAL_PERIOD)}
    solver.IMS_PER_BATCH = batch
    solver.BASE_LR *= factor
    for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
        solver[key] = math.ceil(solver[key] / factor)
    solver.STEPS = tuple(math.ceil(step / factor) for step in solver.STEPS)
    test.EVAL_PERIOD = math.ceil(test.EVAL_PERIOD / factor)
    new = flat_settings(solver) | {"TEST.EVAL_PERIOD": str(test.EVAL_PERIOD)}
    rows = [(key, old[key], new[key]) for key in new if old[key] != new[key]]
    return tabulate(rows, ("", "configuration", "this run"), disable_numparse=True)
