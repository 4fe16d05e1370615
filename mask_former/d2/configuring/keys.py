"""All keys that a run reads: what each may be, what it means, and where it comes from.

:func:`mask_former.d2.configuring.checks.check_config` holds a configuration against this table
before anything is built, and ``tools/document_keys.py`` writes docs/KEYS.md from it. Defaults stand
in ``config.py`` and in Detectron2.
"""

from typing import NamedTuple

from .rules import (
    NAME,
    SWITCH,
    TEXT,
    Rule,
    above_zero,
    like,
    list_of,
    number,
    one_of,
    optional,
    whole,
)


class Key(NamedTuple):
    """A row of the table."""

    rule: Rule
    meaning: str
    source: str
    """Whose the key is; of the paper, the section that explains it."""


_OURS, _D2, _DEEPLAB, _SWIN = "ours", "Detectron2", "DeepLab", "Swin Transformer"
_ORIGINAL = "original code"
# Beyond, a typing error fills the memory before anything else could tell.
_AMOUNT = whole(1, 100_000)
_LAYERS = whole(0, 1000)
_SHARE = number(0, 1)
_DECAY = number(0, 0.999999)  # with 1, the average would stay what it was at first
_NAMES = list_of(NAME)
_SIDES = list_of(_AMOUNT)
_NORM = one_of("", "BN", "GN", "SyncBN", "FrozenBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
_EXPECTED = Rule(
    "rows of task, metric, value and tolerance, such as ['sem_seg', 'mIoU', 44.5, 0.5]",
    lambda rows: (
        isinstance(rows, list | tuple)
        and all(
            isinstance(row, list | tuple)
            and len(row) == 4
            and all(map(TEXT.accepts, row[:2]))
            and all(map(number().accepts, row[2:]))
            for row in rows
        )
    ),
)


def _section(name: str, **keys: Key) -> dict[str, Key]:
    return {f"{name}.{key}": entry for key, entry in keys.items()}


_MODEL = {
    **_section(
        "MODEL",
        META_ARCHITECTURE=Key(
            NAME, "MaskFormer, or SemanticSegmentor for the per-pixel baselines", _D2
        ),
        DEVICE=Key(TEXT, "where the model is, such as cpu, cuda or cuda:1", _D2),
        WEIGHTS=Key(optional(TEXT), "file that a run starts from; empty: random weights", _D2),
        PIXEL_MEAN=Key(list_of(number()), "subtracted from each channel, 0 to 255", _D2),
        PIXEL_STD=Key(list_of(above_zero(1e6)), "by which each channel is divided", _D2),
        CLASSES_BY_NAME=Key(
            SWITCH, "of weights of other classes, take the rows of classes of the same name", _OURS
        ),
        COMPILE=Key(SWITCH, "backbone and head by torch.compile", _OURS),
        CHANNELS_LAST=Key(SWITCH, "another layout of images in memory", _OURS),
    ),
    **_section(
        "MODEL.BACKBONE",
        NAME=Key(NAME, "builder of the backbone, by its registered name", _D2),
        FREEZE_AT=Key(whole(0, 5), "how many parts, from the stem on, are not trained", _D2),
    ),
    **_section(
        "MODEL.RESNETS",
        DEPTH=Key(one_of(18, 34, 50, 101, 152), "layers of a ResNet", _D2),
        OUT_FEATURES=Key(
            list_of(one_of("stem", "res2", "res3", "res4", "res5")), "features that it gives", _D2
        ),
        NORM=Key(_NORM, "norm of the backbone; '': none", _D2),
        NUM_GROUPS=Key(_AMOUNT, "groups of the 3x3 convolutions (ResNeXt)", _D2),
        WIDTH_PER_GROUP=Key(_AMOUNT, "channels of each of these groups", _D2),
        STRIDE_IN_1X1=Key(SWITCH, "the stride is in the 1x1 convolution; else in the 3x3", _D2),
        STEM_OUT_CHANNELS=Key(_AMOUNT, "channels of the stem", _D2),
        RES2_OUT_CHANNELS=Key(_AMOUNT, "channels of res2, doubled from stage to stage", _D2),
        RES4_DILATION=Key(one_of(1, 2), "dilation of res4 (deeplab backbone)", _DEEPLAB),
        RES5_DILATION=Key(one_of(1, 2, 4), "dilation of res5; 4 only in deeplab's backbone", _D2),
        RES5_MULTI_GRID=Key(list_of(_AMOUNT, 3, 3), "dilations of the blocks of res5", _DEEPLAB),
        STEM_TYPE=Key(one_of("basic", "deeplab"), "stem of deeplab's backbone (R101c)", _DEEPLAB),
        DEFORM_ON_PER_STAGE=Key(list_of(SWITCH, 4, 4), "stages of deformable convolutions", _D2),
        DEFORM_MODULATED=Key(SWITCH, "deformable convolutions of the second version", _D2),
        DEFORM_NUM_GROUPS=Key(_AMOUNT, "groups of deformable convolutions", _D2),
        USE_CHECKPOINT=Key(SWITCH, "recompute blocks in the backward pass: less memory", _OURS),
    ),
    **_section(
        "MODEL.SWIN",
        PRETRAIN_IMG_SIZE=Key(_AMOUNT, "side of the images of the pretraining, for APE", _SWIN),
        PATCH_SIZE=Key(_AMOUNT, "side of a patch in pixels", _SWIN),
        EMBED_DIM=Key(_AMOUNT, "channels of the first stage, doubled from stage to stage", _SWIN),
        DEPTHS=Key(list_of(whole(1, 1000)), "blocks of each stage", _SWIN),
        NUM_HEADS=Key(_SIDES, "attention heads of each stage", _SWIN),
        WINDOW_SIZE=Key(_AMOUNT, "side of a window in patches", _SWIN),
        MLP_RATIO=Key(above_zero(1000), "width of the MLP, as a multiple of the channels", _SWIN),
        QKV_BIAS=Key(SWITCH, "queries, keys and values have a bias", _SWIN),
        QK_SCALE=Key(optional(number(0)), "factor of the logits; None, 0: channels^-0.5", _SWIN),
        DROP_RATE=Key(_SHARE, "dropout of embeddings and MLPs", _SWIN),
        ATTN_DROP_RATE=Key(_SHARE, "dropout of attention", _SWIN),
        DROP_PATH_RATE=Key(number(0, 0.999), "stochastic depth of the last block", _SWIN),
        APE=Key(SWITCH, "absolute position embedding", _SWIN),
        PATCH_NORM=Key(SWITCH, "norm behind the patch embedding", _SWIN),
        OUT_FEATURES=Key(_NAMES, "features that the backbone gives", _SWIN),
        USE_CHECKPOINT=Key(SWITCH, "recompute blocks in the backward pass: less memory", _OURS),
    ),
    **_section(
        "MODEL.IMAGE_MODEL",
        NAME=Key(TEXT, "model of timm or torchvision that serves as backbone", _OURS),
        WEIGHTS=Key(TEXT, "file of its library, read where MODEL.WEIGHTS is empty", _OURS),
        OUT_FEATURES=Key(_NAMES, "features that the backbone gives", _OURS),
    ),
    **_section(
        "MODEL.SEM_SEG_HEAD",
        NAME=Key(NAME, "MaskFormerHead, PerPixelBaselineHead, ...PlusHead, or yours", "paper 4.1"),
        IN_FEATURES=Key(_NAMES, "features of the backbone that the pixel decoder takes", _D2),
        IGNORE_VALUE=Key(whole(0, 2**31 - 1), "label of pixels without a class", _D2),
        NUM_CLASSES=Key(_AMOUNT, "classes K, without 'no object'", "paper 3.1"),
        CONVS_DIM=Key(_AMOUNT, "channels inside the pixel decoder", "paper 4.1"),
        MASK_DIM=Key(_AMOUNT, "channels of the per-pixel embedding", "paper 3.3"),
        NORM=Key(_NORM, "norm of the pixel decoder; '': none", "paper 4.1"),
        LOSS_WEIGHT=Key(number(0), "weight of the loss of per-pixel heads", _D2),
        PIXEL_DECODER_NAME=Key(NAME, "builder of the pixel decoder, by its name", "paper 3.3"),
        TRANSFORMER_ENC_LAYERS=Key(
            _LAYERS, "encoder layers inside TransformerEncoderPixelDecoder", _ORIGINAL
        ),
    ),
    **_section(
        "MODEL.MASK_FORMER",
        MASK_DECODER=Key(NAME, "builder of the mask decoder, by its name", _OURS),
        CRITERION=Key(NAME, "builder of the losses, by its name", _OURS),
        MATCHER=Key(NAME, "bipartite, or fixed: query k answers for class k", "paper 3.2; ours"),
        NUM_OBJECT_QUERIES=Key(_AMOUNT, "queries N", "paper 3.3"),
        TRANSFORMER_IN_FEATURE=Key(
            NAME, "feature that the decoder looks at, or transformer_encoder", "paper 3.3"
        ),
        ENFORCE_INPUT_PROJ=Key(SWITCH, "project the feature even to its own width", _ORIGINAL),
        HIDDEN_DIM=Key(_AMOUNT, "width of the transformer, a multiple of NHEADS", "paper 4.1"),
        NHEADS=Key(_AMOUNT, "attention heads", "paper 4.1"),
        DIM_FEEDFORWARD=Key(_AMOUNT, "width of the feed-forward layers", _ORIGINAL),
        DROPOUT=Key(_SHARE, "dropout of the transformer", _ORIGINAL),
        PRE_NORM=Key(SWITCH, "norms before attention and MLP; else behind", _ORIGINAL),
        ENC_LAYERS=Key(_LAYERS, "encoder layers before the decoder", _ORIGINAL),
        DEC_LAYERS=Key(whole(1, 1000), "decoder layers", "paper 4.1"),
        DEEP_SUPERVISION=Key(SWITCH, "losses after every decoder layer", "paper 4.1"),
        CLASS_WEIGHTS=Key(
            list_of(number(0), 0), "of each class in the class loss; empty: the file's, or 1", _OURS
        ),
        NO_OBJECT_WEIGHT=Key(number(0), "weight of 'no object' in the class loss", "paper 4.1"),
        MASK_WEIGHT=Key(number(0), "weight of the focal loss, and of its cost", "paper 4.1"),
        DICE_WEIGHT=Key(number(0), "weight of the dice loss, and of its cost", "paper 4.1"),
        TRAIN_NUM_POINTS=Key(
            whole(0, 10**7), "points of a mask that its losses look at; 0: all pixels", _OURS
        ),
        OVERSAMPLE_RATIO=Key(number(1), "points drawn for each that is kept (PointRend)", _OURS),
        IMPORTANCE_SAMPLE_RATIO=Key(
            _SHARE, "share of the points that are the most uncertain ones (PointRend)", _OURS
        ),
        VALID_MASK=Key(SWITCH, "padding and ignored pixels take part in nothing", _OURS),
        SIZE_DIVISIBILITY=Key(
            whole(most=100_000), "of the sides of a batch; negative: the backbone's", _ORIGINAL
        ),
    ),
    **_section(
        "MODEL.MASK_FORMER.TEST",
        SEMANTIC_ON=Key(SWITCH, "give semantic scores", _OURS),
        PANOPTIC_ON=Key(SWITCH, "give panoptic segments", "paper 3.4"),
        INSTANCE_ON=Key(SWITCH, "give instances", _OURS),
        OBJECT_MASK_THRESHOLD=Key(_SHARE, "segments have a higher class score", "paper 3.4"),
        OVERLAP_THRESHOLD=Key(
            _SHARE, "segments keep at least this share of their mask", "paper 3.4"
        ),
        SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE=Key(
            SWITCH, "enlarge the masks of queries, instead of the maps of classes", _ORIGINAL
        ),
        SEMANTIC_INFERENCE=Key(
            one_of("marginal", "general"),
            "scores over all queries, or over those of panoptic inference",
            "paper 3.4",
        ),
        SEM_SEG_OUTPUT=Key(
            one_of("scores", "labels"), "K maps of scores, or one map of classes", _OURS
        ),
        TILES=Key(
            list_of(whole(0, 100_000), 2, 2),
            "side and least overlap of the tiles in which larger pictures are worked through, as "
            "INPUT.MIN_SIZE_TEST (0: as the file has it) leaves them; [0, 0]: no tiles",
            _OURS,
        ),
    ),
}

_DATA = {
    **_section(
        "INPUT",
        FORMAT=Key(one_of("RGB", "BGR", "L", "YUV-BT.601"), "channels of an image", _D2),
        MIN_SIZE_TRAIN=Key(_SIDES, "shorter sides, one of which is drawn", "paper 4.2"),
        MIN_SIZE_TRAIN_SAMPLING=Key(
            one_of("choice", "range"), "one of MIN_SIZE_TRAIN, or between its two values", _D2
        ),
        MAX_SIZE_TRAIN=Key(_AMOUNT, "longest side in training", _D2),
        MIN_SIZE_TEST=Key(whole(0, 100_000), "shorter side in tests; 0: as the file has it", _D2),
        MAX_SIZE_TEST=Key(_AMOUNT, "longest side in tests", _D2),
        RANDOM_FLIP=Key(one_of("horizontal", "vertical", "none"), "flips in training", "paper 4.2"),
        SCALE_JITTER=Key(
            list_of(above_zero(1000), 0),
            "least and greatest size, in CROP.SIZE; empty: none",
            _OURS,
        ),
        COLOR_AUG_SSD=Key(SWITCH, "change brightness, contrast and hue in training", "paper 4.2"),
        SIZE_DIVISIBILITY=Key(
            whole(most=100_000),
            "side that training images are padded to; 0 or less: none",
            _ORIGINAL,
        ),
        DATASET_MAPPER_NAME=Key(
            like(
                "mask_former_semantic",
                "mask_former_panoptic",
                "mask_former_instance",
                "detr_panoptic",
            ),
            "how training samples are made",
            _ORIGINAL,
        ),
    ),
    **_section(
        "INPUT.CROP",
        ENABLED=Key(SWITCH, "crop training images", "paper 4.2"),
        TYPE=Key(
            one_of("absolute", "absolute_range", "relative", "relative_range"),
            "what SIZE is: pixels or shares, fixed or the limits of a draw",
            _D2,
        ),
        SIZE=Key(list_of(above_zero(100_000), 2, 2), "height and width", "paper 4.2"),
        SINGLE_CATEGORY_MAX_AREA=Key(
            above_zero(1e6), "largest share of a crop that one class may take; 1: any", _DEEPLAB
        ),
    ),
    **_section(
        "DATASETS",
        TRAIN=Key(list_of(NAME, 0), "data sets to train on", _D2),
        TEST=Key(list_of(NAME, 0), "data sets to evaluate on", _D2),
        DESCRIPTIONS=Key(list_of(NAME, 0), "YAML files that describe data sets", _OURS),
    ),
    **_section(
        "DATALOADER",
        NUM_WORKERS=Key(whole(0, 1024), "processes that read images; 0: the run's own", _D2),
        ASPECT_RATIO_GROUPING=Key(SWITCH, "batches are all wide or all tall", _D2),
        SAMPLER_TRAIN=Key(
            one_of("TrainingSampler", "RepeatFactorTrainingSampler"),
            "all images alike, or those with rare classes more often",
            _D2,
        ),
        REPEAT_THRESHOLD=Key(_SHARE, "share of images below which a class is rare", _D2),
        FILTER_EMPTY_ANNOTATIONS=Key(SWITCH, "leave out images without annotations", _D2),
    ),
}

_RUN = {
    **_section(
        "SOLVER",
        OPTIMIZER=Key(one_of("ADAMW", "SGD"), "optimizer", "paper 4.2"),
        IMS_PER_BATCH=Key(_AMOUNT, "images of a batch, over all processes", "paper 4.2"),
        MAX_ITER=Key(whole(0), "iterations of the run", "paper 4.2"),
        ACCUMULATE=Key(_AMOUNT, "parts in which a process's batch goes through the model", _OURS),
        EMA_DECAY=Key(_DECAY, "decay of the moving average of the weights; 0: none", _OURS),
        FREEZE=Key(list_of(NAME, 0), "patterns of the names of what is not trained", _OURS),
        CHECKPOINTS_KEPT=Key(whole(0), "last checkpoints that are kept; 0: all", _OURS),
        DETERMINISTIC=Key(SWITCH, "only algorithms that give the same bits each time", _OURS),
        CHECKPOINT_PERIOD=Key(whole(1), "iterations from one checkpoint to the next", _D2),
        BASE_LR=Key(number(0), "learning rate", "paper 4.2"),
        BACKBONE_MULTIPLIER=Key(number(0), "factor of the backbone's learning rate", "paper 4.2"),
        MOMENTUM=Key(_SHARE, "of SGD", _D2),
        WEIGHT_DECAY=Key(number(0), "weight decay", "paper 4.2"),
        WEIGHT_DECAY_NORM=Key(number(0), "weight decay of norms", _D2),
        WEIGHT_DECAY_EMBED=Key(number(0), "weight decay of embeddings", _ORIGINAL),
        LR_SCHEDULER_NAME=Key(
            one_of("WarmupPolyLR", "WarmupMultiStepLR", "WarmupCosineLR"), "schedule", "paper 4.2"
        ),
        POLY_LR_POWER=Key(number(0), "exponent of WarmupPolyLR", "paper 4.2"),
        POLY_LR_CONSTANT_ENDING=Key(_SHARE, "least factor of WarmupPolyLR", _DEEPLAB),
        STEPS=Key(list_of(whole(0), 0), "iterations at which WarmupMultiStepLR steps", _D2),
        GAMMA=Key(above_zero(1e6), "factor of such a step", _D2),
        WARMUP_ITERS=Key(whole(0), "iterations of the warm-up", _D2),
        WARMUP_FACTOR=Key(_SHARE, "factor at its start", _D2),
        WARMUP_METHOD=Key(one_of("linear", "constant"), "how the factor goes to 1", _D2),
        REFERENCE_WORLD_SIZE=Key(
            whole(0, 100_000), "processes for which batch and rate are given; 0: any", _D2
        ),
        NESTEROV=Key(SWITCH, "no effect, as in the published models' trainer", _D2),
        BIAS_LR_FACTOR=Key(optional(number(0)), "no effect, as published", _D2),
        WEIGHT_DECAY_BIAS=Key(optional(number(0)), "no effect, as published", _D2),
    ),
    **_section(
        "SOLVER.CLIP_GRADIENTS",
        ENABLED=Key(SWITCH, "clip gradients", _D2),
        CLIP_TYPE=Key(
            one_of("full_model", "norm", "value"),
            "norm of all gradients together, of each alone, or each value",
            _ORIGINAL,
        ),
        CLIP_VALUE=Key(number(0), "largest norm or value", "paper 4.2"),
        NORM_TYPE=Key(above_zero(), "exponent of the norm of CLIP_TYPE norm", _D2),
    ),
    **_section(
        "SOLVER.AMP",
        ENABLED=Key(SWITCH, "mixed precision", _D2),
        DTYPE=Key(one_of("float16", "bfloat16"), "its type", _OURS),
    ),
    **_section(
        "TEST",
        EVAL_PERIOD=Key(whole(), "iterations between evaluations; 0 or less: at the end", _D2),
        DETECTIONS_PER_IMAGE=Key(_AMOUNT, "instances of an image, at most", _D2),
        BEST_METRIC=Key(TEXT, "whose best checkpoint is kept; empty: none", _OURS),
        PATIENCE=Key(whole(0), "evaluations without a better one that end a run; 0: any", _OURS),
        LOSS=Key(SWITCH, "losses on the test sets, too", _OURS),
        BOUNDARY_IOU=Key(SWITCH, "semantic results have the IoU of outlines, too", _OURS),
        EXPECTED_RESULTS=Key(_EXPECTED, "results that --eval-only must reach", _D2),
    ),
    **_section(
        "TEST.AUG",
        ENABLED=Key(SWITCH, "test-time augmentation", "paper 4.2"),
        MIN_SIZES=Key(_SIDES, "shorter sides of the variants", "paper 4.2"),
        MAX_SIZE=Key(_AMOUNT, "longest side of a variant", _D2),
        FLIP=Key(SWITCH, "each variant mirrored, too", "paper 4.2"),
        RESIZE_TWICE=Key(SWITCH, "variants of the resized image, as published", _OURS),
    ),
    **_section(
        "TEST.PRECISE_BN",
        ENABLED=Key(SWITCH, "statistics of norms anew before evaluations", _D2),
        NUM_ITER=Key(whole(1), "batches for that", _D2),
    ),
    "OUTPUT_DIR": Key(NAME, "folder that a run writes to", _D2),
    "WANDB_PROJECT": Key(TEXT, "project of Weights & Biases; empty: none", _OURS),
    "SEED": Key(whole(most=2**32 - 1), "of all random numbers; negative: drawn, and logged", _D2),
    "CUDNN_BENCHMARK": Key(SWITCH, "let cuDNN try its algorithms in training", _D2),
    "VERSION": Key(one_of(2), "form of the file", _D2),
}

KEYS: dict[str, Key] = {**_MODEL, **_DATA, **_RUN}
"""By dotted name."""
