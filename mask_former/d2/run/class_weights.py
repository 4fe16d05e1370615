"""Which class weights hold: the configuration's, or those that came with the weights."""

import logging
from typing import Any

import torch
from detectron2.config import CfgNode

_logger = logging.getLogger(__name__)


def keep_class_weights(model: Any, cfg: CfgNode) -> None:
    """Has ``MASK_FORMER.CLASS_WEIGHTS`` win over a file that was loaded, else the file; says which.

    Args:
        model: may have a criterion with ``empty_weight`` [K+1], the last that of "no object".
        cfg: the whole configuration.
    """
    loaded = getattr(getattr(model, "criterion", None), "empty_weight", None)
    if loaded is None:
        return
    options = cfg.MODEL.MASK_FORMER
    ours = torch.tensor(
        [*(options.CLASS_WEIGHTS or loaded[:-1].tolist()), options.NO_OBJECT_WEIGHT]
    )
    if torch.equal(ours.to(loaded), loaded):
        return
    if options.CLASS_WEIGHTS:
        _logger.info(
            "MODEL.MASK_FORMER.CLASS_WEIGHTS and NO_OBJECT_WEIGHT hold, not those of the file"
        )
        loaded.copy_(ours)
    else:
        _logger.info(
            "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT is %g, but the file's %g holds, with which its "
            "weights were trained; with CLASS_WEIGHTS set, the configuration's would",
            options.NO_OBJECT_WEIGHT,
            loaded[-1].item(),
        )
