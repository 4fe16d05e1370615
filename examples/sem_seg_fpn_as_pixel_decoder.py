"""Any per-pixel model can be MaskFormer's pixel decoder (paper, section 3.3).

Here it is Detectron2's own ``SemSegFPNHead``: naming it is all that is needed. One step of
training and one picture, on random weights and images::

    python examples/sem_seg_fpn_as_pixel_decoder.py
"""

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from mask_former.d2.build.model import build_model
from mask_former.d2.config import load_config


def make_cfg() -> CfgNode:
    """A small model whose pixel decoder is Semantic FPN."""
    options = {
        "MODEL.META_ARCHITECTURE": "MaskFormer",
        "MODEL.BACKBONE.NAME": "build_tiny_resnet_backbone",
        "MODEL.RESNETS.NORM": "BN",
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 16,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHead",
        "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "SemSegFPNHead",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
        "MODEL.SEM_SEG_HEAD.MASK_DIM": 32,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 4,
        "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
        "MODEL.MASK_FORMER.DEC_LAYERS": 2,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 10,
    }
    return load_config(opts=[part for option in options.items() for part in option], device="cpu")


def make_sample() -> dict:
    """A random image, whose left half is class 1 and whose right half is class 3."""
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, :, :48] = masks[1, :, 48:] = True
    instances = Instances((64, 96), gt_classes=torch.tensor([1, 3]), gt_masks=masks)
    return {"image": torch.randint(0, 256, (3, 64, 96)), "instances": instances}


def main() -> None:
    """Build, train one step, predict."""
    model = build_model(make_cfg())
    decoder = model.get_submodule("sem_seg_head.pixel_decoder.head")
    print("pixel decoder:", type(decoder).__name__)
    losses = model.train()([make_sample(), make_sample()])
    sum(losses.values()).backward()
    print("losses:", ", ".join(sorted(losses)))
    with torch.no_grad():
        (result,) = model.eval()([make_sample()])
    print("class scores:", tuple(result["sem_seg"].shape))


if __name__ == "__main__":
    main()
