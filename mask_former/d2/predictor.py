"""A model that takes pictures: Detectron2's predictor with our builders and our checkpointer."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.engine import DefaultPredictor

from mask_former.d2.build import build_model
from mask_former.d2.checkpoint import MaskFormerCheckpointer
from mask_former.d2.config import get_mask_former_cfg, merge_opts, merge_yaml


class Predictor(DefaultPredictor):
    """Calling it with a picture [H, W, 3] (BGR, uint8) gives the model's result of that size."""

    def __init__(self, cfg: CfgNode) -> None:
        """Not Detectron2's, which would build and load the model in its own way."""
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg).eval()
        MaskFormerCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        side = cfg.INPUT.MIN_SIZE_TEST
        self.aug = T.ResizeShortestEdge([side, side], cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT


def load_predictor(config_file: str, weights: str, opts: Sequence[str] = ()) -> Predictor:
    """A predictor from two files, on a GPU where there is one.

    Args:
        config_file: YAML.
        weights: a checkpoint.
        opts: KEY VALUE pairs that override the file.

    Raises:
        InputError: a file is missing or bad, or they do not fit each other.
    """
    cfg = get_mask_former_cfg()
    merge_yaml(cfg, config_file)
    merge_opts(cfg, ["MODEL.WEIGHTS", weights, *opts])
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return Predictor(cfg)
