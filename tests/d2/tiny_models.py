"""Options of tiny models of every kind, the models, and inputs for them."""

import torch
from detectron2.structures import Instances

from mask_former.d2.build.model import build_model
from mask_former.d2.config import load_config

HEAD, MASK_FORMER = "MODEL.SEM_SEG_HEAD", "MODEL.MASK_FORMER"
SMALL = {
    "MODEL.META_ARCHITECTURE": "MaskFormer",
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.NAME": "build_tiny_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    f"{HEAD}.NAME": "MaskFormerHead",
    f"{HEAD}.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    f"{HEAD}.NUM_CLASSES": 3,
    f"{HEAD}.CONVS_DIM": 32,
    f"{MASK_FORMER}.HIDDEN_DIM": 32,
    f"{MASK_FORMER}.DEC_LAYERS": 2,
}
NARROW = {
    **SMALL,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    f"{HEAD}.MASK_DIM": 16,
    f"{MASK_FORMER}.DIM_FEEDFORWARD": 32,
    f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 5,
}
"""Of what is only built or run once."""
LEARNING = {
    **SMALL,
    "MODEL.PIXEL_MEAN": [120.0, 110.0, 100.0],
    "MODEL.PIXEL_STD": [60.0, 50.0, 40.0],
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    f"{HEAD}.MASK_DIM": 32,
    f"{MASK_FORMER}.DIM_FEEDFORWARD": 64,
    f"{MASK_FORMER}.DROPOUT": 0.0,
    f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 8,
}
"""Of what learns two images in a second."""
BASELINE = {"MODEL.META_ARCHITECTURE": "SemanticSegmentor", f"{HEAD}.NAME": "PerPixelBaselineHead"}
PLUS = {
    **BASELINE,
    f"{HEAD}.NAME": "PerPixelBaselinePlusHead",
    f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 3,
}
FIXED = {f"{MASK_FORMER}.MATCHER": "fixed", f"{MASK_FORMER}.NUM_OBJECT_QUERIES": 3}
ENCODER = {
    f"{HEAD}.PIXEL_DECODER_NAME": "TransformerEncoderPixelDecoder",
    f"{HEAD}.TRANSFORMER_ENC_LAYERS": 1,
}
TO_ENCODER = {f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "transformer_encoder"}
WITH_ENCODER = {**ENCODER, **TO_ENCODER}
SWIN = {
    "MODEL.BACKBONE.NAME": "D2SwinTransformer",
    "MODEL.SWIN.EMBED_DIM": 8,
    "MODEL.SWIN.DEPTHS": [1, 1, 1, 1],
    "MODEL.SWIN.NUM_HEADS": [1, 2, 4, 8],
}


def make_cfg(options, small=NARROW):
    """The configuration of a small model with these options."""
    return load_config(opts=[part for option in (small | options).items() for part in option])


def make_model(options=None):
    cfg = make_cfg(options or {}, LEARNING)
    torch.manual_seed(0)
    return build_model(cfg)


def image(*size, seed=0, **entries):
    """An input of the given height and width, with more entries."""
    g = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, 256, (3, *size), generator=g), **entries}


def sample(height, width, labels, seed=0):
    """An image in vertical stripes, one for each label; colour tells the class."""
    sem_seg = torch.full((height, width), 255)
    for i, label in enumerate(labels):
        sem_seg[:, i * width // len(labels) : (i + 1) * width // len(labels)] = label
    masks = torch.stack([sem_seg == label for label in labels]) if labels else None
    instances = Instances(
        (height, width),
        gt_classes=torch.tensor(labels, dtype=torch.int64),
        gt_masks=torch.zeros(0, height, width, dtype=torch.bool) if masks is None else masks,
    )
    colours = torch.tensor([[230, 20, 20], [20, 230, 20], [20, 20, 230]])
    pixels = colours[sem_seg.clamp(max=2)].permute(2, 0, 1)
    noise = torch.randint(-15, 16, pixels.shape, generator=torch.Generator().manual_seed(seed))
    return {"image": pixels + noise, "instances": instances, "sem_seg": sem_seg}
