"""Converts between our checkpoints and MaskFormerForInstanceSegmentation of transformers.

    mask_former convert-transformers from FOLDER OUTPUT      # config.json and weights of theirs
    mask_former convert-transformers to model_final.pth OUTPUT --config-file config.yaml

`from` writes model.pth and config.yaml into the folder OUTPUT, `to` config.json and
model.safetensors. What the other side has no counterpart for is refused by its name.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from torch import Tensor

from ..d2.build.model import build_model
from ..d2.checkpoint import MaskFormerCheckpointer
from ..d2.command_line.importing import add_import_argument, import_code
from ..d2.config import load_config
from ..d2.data.json_files import read_json
from ..d2.data.preparing import replacing, telling_errors
from ..d2.errors import InputError
from ..d2.weights.reading import read_weights
from ..d2.weights.record import load_trained_config
from ..d2.weights.transformers_names import from_theirs, to_theirs

DEPTHS = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}
"""Blocks of the stages of a ResNet."""
BATCH_NORMS = ("BN", "SyncBN", "FrozenBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
"""Norms of a ResNet that have the same weights, and the same results after training."""
KEYS: tuple[tuple[str, str], ...] = (  # ours, theirs, by their path
    ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "num_labels"),
    ("MODEL.SEM_SEG_HEAD.CONVS_DIM", "fpn_feature_size"),
    ("MODEL.SEM_SEG_HEAD.MASK_DIM", "mask_feature_size"),
    ("MODEL.MASK_FORMER.NO_OBJECT_WEIGHT", "no_object_weight"),
    ("MODEL.MASK_FORMER.DICE_WEIGHT", "dice_weight"),
    ("MODEL.MASK_FORMER.MASK_WEIGHT", "mask_weight"),
    ("MODEL.MASK_FORMER.HIDDEN_DIM", "decoder_config.d_model"),
    ("MODEL.MASK_FORMER.NHEADS", "decoder_config.decoder_attention_heads"),
    ("MODEL.MASK_FORMER.DIM_FEEDFORWARD", "decoder_config.decoder_ffn_dim"),
    ("MODEL.MASK_FORMER.DEC_LAYERS", "decoder_config.decoder_layers"),
    ("MODEL.MASK_FORMER.DROPOUT", "decoder_config.dropout"),
    ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "decoder_config.num_queries"),
)
SWIN_KEYS = (
    ("MODEL.SWIN.PATCH_SIZE", "backbone_config.patch_size"),
    ("MODEL.SWIN.EMBED_DIM", "backbone_config.embed_dim"),
    ("MODEL.SWIN.DEPTHS", "backbone_config.depths"),
    ("MODEL.SWIN.NUM_HEADS", "backbone_config.num_heads"),
    ("MODEL.SWIN.WINDOW_SIZE", "backbone_config.window_size"),
    ("MODEL.SWIN.MLP_RATIO", "backbone_config.mlp_ratio"),
    ("MODEL.SWIN.QKV_BIAS", "backbone_config.qkv_bias"),
    ("MODEL.SWIN.APE", "backbone_config.use_absolute_embeddings"),
    ("MODEL.SWIN.DROP_PATH_RATE", "backbone_config.drop_path_rate"),
)

REQUIRED: dict[str, tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("MaskFormer",),
    "MODEL.SEM_SEG_HEAD.NAME": ("MaskFormerHead",),
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": ("BasePixelDecoder",),
    "MODEL.SEM_SEG_HEAD.NORM": ("GN",),
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": ("res5",),
    "MODEL.MASK_FORMER.ENC_LAYERS": (0,),
    "MODEL.MASK_FORMER.PRE_NORM": (False,),
}
"""Values of ours that have a counterpart."""


def our_config(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our configuration, as far as it is not the default, for one of theirs.

    Raises:
        InputError: it has something that we lack.
    """
    for section in ("backbone_config", "decoder_config"):
        if not (isinstance(theirs, Mapping) and "model_type" in (theirs.get(section) or ())):
            raise InputError(
                f"config.json has no {section} with a model_type; give a folder that "
                "save_pretrained of a MaskFormerForInstanceSegmentation has written"
            )
    theirs = {**theirs, "num_labels": len(theirs.get("id2label", range(2)))}  # 2: their default
    backbone, decoder = theirs["backbone_config"], theirs["decoder_config"]
    kind = backbone["model_type"]
    ours: dict[str, Any] = {
        "MODEL.META_ARCHITECTURE": "MaskFormer",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.SEM_SEG_HEAD.NAME": "MaskFormerHead",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "res5",
        "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": True,
        "INPUT.FORMAT": "RGB",
    }
    keys = KEYS
    if kind in ("swin", "maskformer-swin"):
        ours["MODEL.BACKBONE.NAME"] = "D2SwinTransformer"
        keys = (*KEYS, *SWIN_KEYS)
    elif kind == "resnet":
        ours |= _our_resnet(backbone)
    else:
        raise InputError(f"backbone_config has model_type {kind!r}; resnet and swin are known")
    if decoder["model_type"] != "detr":
        raise InputError(f"decoder_config has model_type {decoder['model_type']!r}, not 'detr'")
    for section, key, known in (
        ("backbone_config", "hidden_act", "relu" if kind == "resnet" else "gelu"),
        ("decoder_config", "activation_function", "relu"),
    ):
        if (found := theirs[section].get(key, known)) != known:
            raise InputError(f"{section} has {key} {found!r}; {known!r} is known")
    for key, path in keys:
        value: Any = theirs
        for part in path.split("."):
            value = value.get(part) if value is not None else None
        if value is not None:
            ours[key] = value
    return ours


def _our_resnet(backbone: Mapping[str, Any]) -> dict[str, Any]:
    if missing := {"depths", "hidden_sizes", "embedding_size"} - backbone.keys():
        raise InputError(f"backbone_config is a resnet without {', '.join(sorted(missing))}")
    depths = [depth for depth, blocks in DEPTHS.items() if blocks == backbone["depths"]]
    sizes = backbone["hidden_sizes"]
    if backbone.get("layer_type") != "bottleneck" or not depths:
        raise InputError(
            f"backbone_config is a resnet of layer_type {backbone.get('layer_type')!r} and depths "
            f"{backbone['depths']}; bottleneck and {', '.join(map(str, DEPTHS.values()))} are known"
        )
    if sizes != [sizes[0] * 2**i for i in range(4)] or backbone.get("downsample_in_first_stage"):
        raise InputError(
            f"backbone_config has hidden_sizes {sizes} and downsample_in_first_stage "
            f"{backbone.get('downsample_in_first_stage')}; sizes that double and False are known"
        )
    prefix = "MODEL.RESNETS"
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        f"{prefix}.DEPTH": depths[0],
        f"{prefix}.STEM_TYPE": "basic",
        f"{prefix}.STRIDE_IN_1X1": bool(backbone.get("downsample_in_bottleneck", False)),
        f"{prefix}.STEM_OUT_CHANNELS": backbone["embedding_size"],
        f"{prefix}.RES2_OUT_CHANNELS": sizes[0],
        f"{prefix}.WIDTH_PER_GROUP": sizes[0] // 4,
        f"{prefix}.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        f"{prefix}.RES5_MULTI_GRID": [1, 1, 1],
    }


def their_config(cfg: CfgNode) -> dict[str, Any]:
    """Their configuration for one of ours.

    Raises:
        InputError: it has something that they lack.
    """
    required = dict(REQUIRED)
    theirs: dict[str, Any] = {
        "model_type": "maskformer",
        "architectures": ["MaskFormerForInstanceSegmentation"],
        "decoder_config": {"model_type": "detr", "encoder_layers": 0},
    }
    keys = KEYS
    if cfg.MODEL.BACKBONE.NAME == "D2SwinTransformer":
        required |= {
            "MODEL.SWIN.PATCH_NORM": (True,),
            "MODEL.SWIN.APE": (False,),
            "MODEL.SWIN.QK_SCALE": (None, 0),
        }
        theirs["backbone_config"] = {"model_type": "swin"}
        keys = (*KEYS, *SWIN_KEYS)
    else:
        required |= {
            "MODEL.BACKBONE.NAME": ("build_resnet_backbone",),
            "MODEL.RESNETS.STEM_TYPE": ("basic",),
            "MODEL.RESNETS.NORM": BATCH_NORMS,
            "MODEL.RESNETS.NUM_GROUPS": (1,),
            "MODEL.RESNETS.WIDTH_PER_GROUP": (cfg.MODEL.RESNETS.RES2_OUT_CHANNELS // 4,),
            "MODEL.RESNETS.RES5_DILATION": (1,),
        }
        theirs["backbone_config"] = _their_resnet(cfg)
    for key, values in required.items():
        if (found := _of(cfg, key)) not in values:
            raise InputError(
                f"{key} is {found!r}; MaskFormerForInstanceSegmentation of transformers has a "
                f"counterpart of {' or '.join(map(repr, values))} alone"
            )
    theirs["backbone_config"]["out_features"] = [f"stage{i}" for i in range(1, 5)]
    for key, path in keys:
        *sections, name = path.split(".")
        node = theirs
        for section in sections:
            node = node[section]
        node[name] = _of(cfg, key)
    classes = theirs.pop("num_labels")
    theirs["id2label"] = {str(i): f"LABEL_{i}" for i in range(classes)}
    theirs["label2id"] = {f"LABEL_{i}": i for i in range(classes)}
    return theirs


def _their_resnet(cfg: CfgNode) -> dict[str, Any]:
    options = cfg.MODEL.RESNETS
    if options.DEPTH not in DEPTHS:
        raise InputError(
            f"MODEL.RESNETS.DEPTH is {options.DEPTH}; {', '.join(map(str, DEPTHS))} have a "
            "counterpart in transformers"
        )
    return {
        "model_type": "resnet",
        "layer_type": "bottleneck",
        "depths": DEPTHS[options.DEPTH],
        "embedding_size": options.STEM_OUT_CHANNELS,
        "hidden_sizes": [options.RES2_OUT_CHANNELS * 2**i for i in range(4)],
        "downsample_in_bottleneck": options.STRIDE_IN_1X1,
    }


def _of(cfg: CfgNode, key: str) -> Any:
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return value


def convert_from(folder: Path, output: Path, trusted: bool = False) -> None:
    """Writes model.pth and config.yaml for a folder of theirs.

    Raises:
        InputError: it lacks a file, or has something that we lack.
    """
    config = folder / "config.json"
    names = ("model.safetensors", "pytorch_model.bin")
    files = [folder / name for name in names if (folder / name).is_file()]
    if not config.is_file() or not files:
        raise InputError(
            f"{folder} has no config.json, or neither of {', '.join(names)}; give a folder that "
            "save_pretrained has written"
        )
    weights = read_weights(str(files[0]), trusted=trusted)["model"]
    options = our_config(read_json(str(config), "configuration"))
    state = from_theirs({name: torch.as_tensor(value) for name, value in weights.items()})
    cfg = load_config(opts=[part for pair in options.items() for part in pair], device="cpu")
    model = build_model(cfg)
    expected = {k: v for k, v in model.state_dict().items() if not k.startswith("criterion.")}
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    wrong = [k for k in {*expected, *state} if shapes.get(k) != _shape(expected.get(k))]
    if wrong:
        raise InputError(
            f"{sorted(wrong)[0]} is {shapes.get(sorted(wrong)[0], 'missing')} in {files[0]}, but "
            f"config.json says {_shape(expected.get(sorted(wrong)[0]))}"
        )
    output.mkdir(parents=True, exist_ok=True)
    with replacing(output / "model.pth") as temporary:
        torch.save({"model": state}, temporary)
    with replacing(output / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump({**_nested(options), "VERSION": 2}))


def _shape(value: Tensor | None) -> tuple[int, ...] | None:
    return None if value is None else tuple(value.shape)


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in options.items():
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return tree


def convert_to(weights: str, config_file: str | None, output: Path) -> None:
    """Writes config.json and model.safetensors for a checkpoint of ours.

    Raises:
        InputError: it has something that they lack.
    """
    cfg = load_trained_config(config_file, ["MODEL.WEIGHTS", weights], device="cpu")
    theirs = their_config(cfg)
    model = build_model(cfg)
    MaskFormerCheckpointer(model).load(weights)
    ours = model.state_dict()
    if "sem_seg_head.predictor.input_proj.weight" not in ours:
        raise InputError(
            "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ is False and the feature has the transformer's "
            "width, so there is no input_proj, which transformers has always"
        )
    state = to_theirs(ours)
    state["criterion.empty_weight"] = ours["criterion.empty_weight"]
    output.mkdir(parents=True, exist_ok=True)
    with replacing(output / "config.json") as temporary:
        temporary.write_text(json.dumps(theirs, indent=2))
    with replacing(output / "model.safetensors") as temporary:
        content = {name: value.contiguous() for name, value in state.items()}
        _safetensors().save_file(content, temporary, metadata={"format": "pt"})


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise InputError("safetensors is missing; install it with `pip install safetensors`") from (
            error
        )
    return safetensors.torch


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    directions = parser.add_subparsers(dest="direction", required=True)
    source = directions.add_parser("from", help="theirs to ours")
    source.add_argument("input", type=Path, help="the folder of save_pretrained")
    source.add_argument("output", type=Path, help="the folder to write")
    source.add_argument(
        "--trust-weights", action="store_true", help="let a .bin file run whatever it names"
    )
    target = directions.add_parser("to", help="ours to theirs")
    target.add_argument("input", help="the checkpoint")
    target.add_argument("output", type=Path, help="the folder to write")
    target.add_argument(
        "--config-file", metavar="FILE", help="YAML; default: that of the checkpoint"
    )
    add_import_argument(target)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads, converts, writes."""
    args = parse_args(argv)
    with telling_errors():
        if args.direction == "from":
            convert_from(args.input, args.output, args.trust_weights)
        else:
            import_code(args.imports)
            convert_to(args.input, args.config_file, args.output)
    print(f"wrote {', '.join(sorted(str(path) for path in args.output.iterdir()))}")
