"""Whole models, ours beside the MaskFormer of the ``transformers`` library, same architecture.

``models/MODEL/WORK/BATCH/DTYPE/MODE[/SIZE]``, images of 512x512: R50 or Swin-T; semantic labels,
panoptic maps or a step of training without the optimizer; float32 or bfloat16; eager or compiled.
Both are built from their configurations, and nothing is downloaded. Weights are random, but the
class logits are given: 15 queries are sure of a class, since the time of a panoptic result depends
on how many are. Their labels come from scores that are summed at a quarter of the size and then
resized, which is less work and not the paper's number.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.criterion import Shape, random_targets
from benchmarks.measure import Work, device
from benchmarks.training import config, training_inputs
from mask_former.d2.build.model import build_model
from mask_former.d2.fuse_norms import optimize_for_inference

SIDES = ("transformers", "ours") if find_spec("transformers") else ("ours",)
MODELS = {"R50": "ade20k", "Swin-T": "ade20k-swin"}
CLASSES = {"semantic": 150, "panoptic": 133, "train": 150}
SIZE, SEGMENTS, SURE, QUERIES = 512, 10, 15, 100
THRESHOLD = 0.8  # of classes; of overlaps it is 0, as random masks lie upon each other
WORKS = ("semantic/1", "semantic/8", "panoptic/1", "panoptic/8", "train/2")
CASES = tuple(
    f"models/{model}/{work}/float32/{mode}"
    for model in MODELS
    for work in WORKS
    for mode in ("eager", "compiled")
)


def check_transformers() -> None:
    """Leaves with the remedy if the other side is not installed."""
    if len(SIDES) == 1:
        raise SystemExit(
            "the benchmarks of whole models compare with the library transformers, which is not "
            'installed; install the extra: pip install -e ".[benchmark]"'
        )


def build(case: str, side: str) -> Work:
    """One side."""
    _, model, work, batch, _, mode, *sizes = case.split("/")
    size = int(sizes[0]) if sizes else SIZE
    shape = Shape(int(batch), size, size, SEGMENTS, CLASSES[work])
    images = torch.randint(256, (int(batch), 3, size, size), dtype=torch.uint8).to(device())
    make = our_work if side == "ours" else their_work
    run = make(model, work, mode == "compiled", images, shape)

    def without_result() -> None:  # which has no like on the other side
        with torch.set_grad_enabled(work == "train"):
            run()

    return without_result


def give_classes(class_embed: nn.Module, classes: int) -> None:
    """Puts given logits in the place of those that a layer computes."""
    logits = torch.zeros(QUERIES, classes + 1, device=device())
    logits[SURE:, -1] = 20
    logits[torch.arange(SURE), torch.arange(SURE) % classes] = 20
    class_embed.register_forward_hook(lambda _, __, out: logits.expand_as(out).to(out.dtype))


def our_work(model: str, work: str, compiled: bool, images: Tensor, shape: Shape) -> Work:
    """From images to results or gradients; ours also normalises and pads."""
    cfg = config(MODELS[model])
    cfg.MODEL.COMPILE = compiled
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = shape.classes
    cfg.DATASETS.TRAIN = ("coco_2017_train_panoptic",)  # says which classes are things
    options = cfg.MODEL.MASK_FORMER.TEST
    options.SEMANTIC_ON, options.PANOPTIC_ON = work != "panoptic", work == "panoptic"
    options.SEM_SEG_OUTPUT = "labels"
    options.OBJECT_MASK_THRESHOLD, options.OVERLAP_THRESHOLD = THRESHOLD, 0.0
    ours: Any = build_model(cfg).train(work == "train")
    if work == "train":
        inputs = training_inputs(shape)
        return lambda: torch.stack(list(ours(inputs).values())).sum().backward()
    optimize_for_inference(ours)
    give_classes(ours.sem_seg_head.predictor.class_embed, shape.classes)
    return lambda: ours([{"image": image} for image in images])


def their_work(model: str, work: str, compiled: bool, images: Tensor, shape: Shape) -> Work:
    """The same by transformers, from images that are normalised already."""
    t: Any = import_module("transformers")

    backbone = t.ResNetConfig if model == "R50" else t.SwinConfig
    options = t.MaskFormerConfig(
        backbone_config=backbone(out_features=["stage1", "stage2", "stage3", "stage4"]),
        decoder_config=t.DetrConfig(encoder_layers=0, num_queries=QUERIES),
        num_labels=shape.classes,
        use_auxiliary_loss=work == "train",
    )
    theirs = t.MaskFormerForInstanceSegmentation(options).to(device()).train(work == "train")
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):  # frozen, as ours
            module.eval().requires_grad_(False)
    if compiled:
        theirs.compile()
    normalised = images / 127.5 - 1
    if work == "train":
        targets = random_targets(shape)
        masks, labels = [x.masks.float() for x in targets], [x.labels for x in targets]
        # The losses of the layers need the hidden states.
        return lambda: theirs(normalised, masks, labels, output_hidden_states=True).loss.backward()
    give_classes(theirs.class_predictor, shape.classes)
    processor, sizes = t.MaskFormerImageProcessor(), [tuple(images.shape[-2:])] * len(images)
    if work == "semantic":
        return lambda: processor.post_process_semantic_segmentation(theirs(normalised), sizes)
    thresholds = {"threshold": THRESHOLD, "overlap_mask_area_threshold": 0.0}
    fused = set(range(80, shape.classes))
    return lambda: processor.post_process_panoptic_segmentation(
        theirs(normalised), label_ids_to_fuse=fused, target_sizes=sizes, **thresholds
    )
