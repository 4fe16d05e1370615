"""The two sides of end_to_end.py, ours and that of transformers, and what both are given."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from benchmarks.criterion import Shape, random_targets
from benchmarks.measure import Work
from mask_former.d2.build.model import build_model
from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.config_merging import merge_yaml
from mask_former.d2.fuse_norms import optimize_for_inference
from mask_former.functional.lazy_masks import lazy_masks
from mask_former.structures import MaskPrediction, MaskTarget

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "ade20k-150"
MODELS = {
    "R50": "maskformer_R50_bs16_160k.yaml",
    "Swin-T": "swin/maskformer_swin_tiny_bs16_160k.yaml",
}
CLASSES = {"semantic": 150, "panoptic": 133}
THINGS = 80  # the first classes of COCO panoptic
THRESHOLD = 0.8  # of panoptic results: for classes and for overlaps
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MEAN, STD = (123.675, 116.280, 103.530), (58.395, 57.120, 57.375)


class Setting(NamedTuple):
    """What a pair of models is built for, and the data they get."""

    model: str
    task: str
    batch: int
    dtype: str
    mode: str
    size: int
    train: bool
    channels_last: bool = False

    @property
    def precision(self) -> torch.autocast:
        """The context in which both sides run."""
        enabled = self.dtype != "float32"
        return torch.autocast(device().type, DTYPES[self.dtype] if enabled else None, enabled)


def device() -> torch.device:
    """Where both run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def random_images(setting: Setting) -> Tensor:
    """[B, 3, H, W], uint8."""
    shape = (setting.batch, 3, setting.size, setting.size)
    return torch.randint(256, shape, dtype=torch.uint8).to(device())


def normalise(images: Tensor) -> Tensor:
    """As both sides' models were trained."""
    mean, std = (torch.tensor(x, device=images.device).view(3, 1, 1) for x in (MEAN, STD))
    return (images - mean) / std


def given_prediction(shape: Shape) -> MaskPrediction:
    """The first N queries are sure of a class and of a cell of the image, the others of no object.

    Each cell has a channel of the pixel embedding.
    """
    height, width = shape.height // 4, shape.width // 4
    sure, where = shape.segments, device()
    class_logits = torch.zeros(1, shape.images, shape.queries, shape.classes + 1, device=where)
    class_logits[:, :, sure:, -1] = 20
    mask_embed = torch.zeros(1, shape.images, shape.queries, shape.channels, device=where)
    mask_embed[:, :, :sure] = torch.eye(sure, shape.channels, device=where)
    mask_embed[:, :, sure:, -1] = 1
    pixel_embed = torch.full((shape.images, shape.channels, height, width), -4.0, device=where)
    for image, target in enumerate(
        random_targets(shape._replace(height=height, width=width), where)
    ):
        class_logits[0, image, torch.arange(sure), target.labels] = 20
        pixel_embed[image, :sure] = 8 * target.masks.float() - 4
    return MaskPrediction(class_logits, mask_embed, pixel_embed)


def class_map(ids: Tensor, class_of_id: dict[int, int]) -> Tensor:
    """Segment ids [H, W] to classes [H, W]; -1 where there is none."""
    classes = torch.full_like(ids, -1, dtype=torch.int64)
    for i, label in class_of_id.items():
        classes[ids == i] = label
    return classes


class Ours:
    """Our side."""

    def __init__(self, setting: Setting) -> None:
        cfg = get_mask_former_cfg()
        merge_yaml(cfg, str(CONFIGS / MODELS[setting.model]))
        cfg.MODEL.DEVICE = device().type
        cfg.MODEL.COMPILE = setting.mode == "compiled"
        cfg.MODEL.CHANNELS_LAST = cfg.MODEL.CHANNELS_LAST or setting.channels_last
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = CLASSES[setting.task]
        cfg.DATASETS.TRAIN = ("coco_2017_train_panoptic",)  # says which classes are things
        options = cfg.MODEL.MASK_FORMER.TEST
        options.SEMANTIC_ON = setting.task == "semantic"
        options.PANOPTIC_ON = setting.task == "panoptic"
        options.SEM_SEG_OUTPUT = "labels"
        options.OBJECT_MASK_THRESHOLD = options.OVERLAP_THRESHOLD = THRESHOLD
        self.model = build_model(cfg)
        if not setting.train:
            optimize_for_inference(self.model)
        # So that what the head is given in place of its own prediction is the embedding, too.
        last = self.model.sem_seg_head.pixel_decoder.mask_features
        nn.init.dirac_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Class logits [B, Q, K+1] and of each image mask logits [Q, h, w]."""
        head = self.model.sem_seg_head
        prediction = self.model.predict(
            self.model.backbone, head, images, embed=False, release=True
        )
        size = tuple(prediction.pixel_embed.shape[-2:])
        masks = [
            lazy_masks(*embeddings, size, size, convolution=head.last_convolution()).convolved()
            for embeddings in zip(prediction.mask_embed[-1], prediction.pixel_embed, strict=True)
        ]
        return prediction.class_logits[-1], [lazy.pixel_embed for lazy in masks]

    def plain_forward(self, images: Tensor) -> Tensor:
        """Mask logits [B, Q, h, w], by way of the embeddings, whose convolution forward saves."""
        return self.model.sem_seg_head(self.model.backbone(images)).mask_logits()

    def result(self, images: Tensor, given: MaskPrediction) -> list[dict[str, Any]]:
        """Results of images in 0..255, with the given prediction in place of the head's."""
        predict = self.model.predict
        self.model.predict = lambda *args, **options: (predict(*args, **options), given)[1]
        results = self.model([{"image": image} for image in images])
        self.model.predict = predict
        return results

    def class_maps(self, results: list[dict[str, Any]]) -> list[Tensor]:
        """The class of each pixel, [H, W]; -1 for none."""
        if "sem_seg" in results[0]:
            return [result["sem_seg"] for result in results]
        panoptic = [result["panoptic_seg"] for result in results]
        return [class_map(ids, {s["id"]: s["category_id"] for s in info}) for ids, info in panoptic]

    def training_step(self, setting: Setting, images: Tensor, targets: list[MaskTarget]) -> Work:
        """Losses and gradients of images in 0..255."""
        inputs = [
            {"image": image, "instances": instances(target)}
            for image, target in zip(images, targets, strict=True)
        ]

        def step() -> None:
            self.model.zero_grad()
            with setting.precision:
                losses = self.model(inputs)
            torch.stack(list(losses.values())).sum().backward()

        return step


def instances(target: MaskTarget) -> Instances:
    """As the mappers give them."""
    size = tuple(target.masks.shape[-2:])
    return Instances(size, gt_classes=target.labels, gt_masks=target.masks)


class Theirs:
    """The side of transformers; the same methods."""

    def __init__(self, setting: Setting) -> None:
        from transformers import (
            DetrConfig,
            MaskFormerConfig,
            MaskFormerForInstanceSegmentation,
            MaskFormerImageProcessor,
            ResNetConfig,
            SwinConfig,
        )

        stages = ["stage1", "stage2", "stage3", "stage4"]
        backbones = {
            "R50": ResNetConfig(out_features=stages),
            "Swin-T": SwinConfig(drop_path_rate=0.3, out_features=stages),
        }
        config = MaskFormerConfig(
            backbone_config=backbones[setting.model],
            decoder_config=DetrConfig(encoder_layers=0, num_queries=100),
            num_labels=CLASSES[setting.task],
            use_auxiliary_loss=setting.train,
        )
        self.task = setting.task
        self.processor = MaskFormerImageProcessor()
        self.model = MaskFormerForInstanceSegmentation(config).to(device()).train(setting.train)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):  # frozen, as ours
                module.eval().requires_grad_(False)
        if setting.channels_last:
            self.model.to(memory_format=torch.channels_last)
        if setting.mode == "compiled":
            self.model.compile()

    def forward(self, images: Tensor) -> Any:
        """Class and mask logits of normalised images."""
        return self.model(images)

    def result(self, images: Tensor, class_logits: Tensor, mask_logits: Tensor) -> list[Any]:
        """Results of normalised images, with the given logits in place of the model's."""
        output = self.model(images)
        output.class_queries_logits, output.masks_queries_logits = class_logits, mask_logits
        sizes = [tuple(images.shape[-2:])] * len(images)
        if self.task == "semantic":
            return self.processor.post_process_semantic_segmentation(output, sizes)
        return self.processor.post_process_panoptic_segmentation(
            output,
            threshold=THRESHOLD,
            overlap_mask_area_threshold=THRESHOLD,
            label_ids_to_fuse=set(range(THINGS, CLASSES["panoptic"])),
            target_sizes=sizes,
        )

    def class_maps(self, results: list[Any]) -> list[Tensor]:
        """The class of each pixel, [H, W]; -1 for none."""
        if self.task == "semantic":
            return results
        return [
            class_map(r["segmentation"], {s["id"]: s["label_id"] for s in r["segments_info"]})
            for r in results
        ]

    def training_step(self, setting: Setting, images: Tensor, targets: list[MaskTarget]) -> Work:
        """Losses and gradients of normalised images."""
        masks = [target.masks.float() for target in targets]
        labels = [target.labels for target in targets]

        def step() -> None:
            self.model.zero_grad()
            with setting.precision:  # the losses of the layers need the hidden states
                output = self.model(images, masks, labels, output_hidden_states=True)
            output.loss.backward()

        return step
