r"""Counts parameters, FLOPs and activations of a model, or prints its structure.

    mask_former analyze --config-file configs/ade20k-150/maskformer_R50_bs16_160k.yaml \
        --tasks parameter flop --use-fixed-input-size

With --use-fixed-input-size the input is one square of zeros, as large as the training crop
(INPUT.CROP.SIZE), and no data set is needed; without it, the first images of DATASETS.TEST. One
multiply-add is one FLOP. Counted is what the paper counts, not the short cuts that evaluation
takes. No number depends on the weights, so none are loaded. In place of --config-file,
MODEL.WEIGHTS may name a checkpoint of `mask_former train`, which carries its configuration.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils.analysis import (
    FlopCountAnalysis,
    activation_count_operators,
    parameter_count_table,
)
from fvcore.nn import flop_count_table
from fvcore.nn.jit_handles import get_shape
from torch import nn
from tqdm import tqdm

from ..d2.build.model import build_model
from ..d2.command_line.arguments import positive
from ..d2.command_line.importing import add_import_argument, import_code
from ..d2.data.checks import check_dataset
from ..d2.data.datasets import register_descriptions
from ..d2.data.mappers import EvaluationMapper
from ..d2.data.preparing import telling_errors
from ..d2.errors import InputError
from ..d2.meta_arch import MaskFormer
from ..d2.weights.record import load_trained_config

GIGA, MEGA = 1e9, 1e6
ATTENTION = "aten::scaled_dot_product_attention"

Input = dict[str, Any]
Counts = Mapping[str, float]


def fixed_input(cfg: CfgNode) -> Input:
    """Zeros [3, s, s] with s of the training crop, also where the crop is not square."""
    side = cfg.INPUT.CROP.SIZE[0]
    if not isinstance(side, int) or cfg.INPUT.CROP.TYPE != "absolute":
        raise InputError(
            f"INPUT.CROP.SIZE is {cfg.INPUT.CROP.SIZE} of the type {cfg.INPUT.CROP.TYPE!r}, but "
            "--use-fixed-input-size needs pixels; add INPUT.CROP.TYPE absolute INPUT.CROP.SIZE "
            '"(512, 512)"'
        )
    return {"image": torch.zeros(3, side, side), "height": side, "width": side}


def dataset_inputs(cfg: CfgNode, number: int) -> Iterator[Input]:
    """The first images of the test set, as an evaluation gives them to the model."""
    if not cfg.DATASETS.TEST:
        raise InputError("DATASETS.TEST is empty; name a data set, or add --use-fixed-input-size")
    register_descriptions(cfg)
    name = cfg.DATASETS.TEST[0]
    check_dataset(name)
    samples = DatasetCatalog.get(name)[:number]
    return map(EvaluationMapper(cfg), tqdm(samples, unit="image"))


def attention_flops(inputs: Sequence[Any], outputs: Sequence[Any]) -> float:
    """Both products: queries with keys, weights with values."""
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def attention_activations(inputs: Sequence[Any], outputs: Sequence[Any]) -> float:
    """The results of both products, also where a fused kernel does not store the first."""
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    return prod(query[:-1]) * (key[-2] + value[-1])


class AsPublished(nn.Module):
    """MaskFormer's evaluation as the paper counts it: all masks, whole, from the embeddings."""

    def __init__(self, model: MaskFormer) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.sem_seg_head = model.sem_seg_head
        self.normalize_and_pad = model.normalize_and_pad

    def forward(self, inputs: Sequence[Input]) -> torch.Tensor:
        """Semantic scores [B, K, H, W]; panoptic results add no multiplication of matrices."""
        images = self.normalize_and_pad(inputs).tensor
        prediction = self.sem_seg_head(self.backbone(images)).last()
        masks = F.interpolate(prediction.mask_logits(), images.shape[-2:], mode="bilinear")
        class_probs = prediction.class_logits[0].softmax(dim=-1)[..., :-1]
        return torch.einsum("bqk,bqhw->bkhw", class_probs, masks.sigmoid())


def analyze_flops(model: nn.Module, model_input: Input) -> FlopCountAnalysis:
    """FLOPs of one input, by module and by operator."""
    tensors = {key: model_input[key] for key in ("image", "height", "width") if key in model_input}
    flops = FlopCountAnalysis(model, [tensors]).set_op_handle(ATTENTION, attention_flops)
    return flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False)


def count_activations(model: nn.Module, model_input: Input) -> Counts:
    """Millions of activations of one input, by operator."""
    counts = activation_count_operators(
        model, [model_input], supported_ops={ATTENTION: attention_activations}
    )
    return {name: count for name, count in counts.items() if count}


def summary(counts: Sequence[Counts], unit: str) -> str:
    """Means over the inputs: by operator, and of the total with its deviation."""
    mean: Counter[str] = Counter()
    for of_input in counts:
        mean.update({name: count / len(counts) for name, count in of_input.items()})
    totals = [sum(of_input.values()) for of_input in counts]
    lines = [f"{name}: {count:.3f}" for name, count in mean.most_common()]
    digits = 1 if np.mean(totals) >= 10 else 3  # as many as MODEL_ZOO.md has
    lines.append(f"total: {np.mean(totals):.{digits}f} ± {np.std(totals):.{digits}f} {unit}")
    return "\n".join([*lines, f"mean of {len(counts)} input{'s' * (len(counts) > 1)}"])


def do_flop(model: nn.Module, inputs: Callable[[], Iterator[Input]]) -> None:
    """Prints the modules of the last input, and the operators of all."""
    counts = []
    for model_input in inputs():
        flops = analyze_flops(model, model_input)
        counts.append({name: count / GIGA for name, count in flops.by_operator().items()})
    print(flop_count_table(flops, max_depth=3, show_param_shapes=False))
    print(summary(counts, "GFLOPs"))


def do_activation(model: nn.Module, inputs: Callable[[], Iterator[Input]]) -> None:
    """Prints the operators of all inputs."""
    print(summary([count_activations(model, i) for i in inputs()], "million activations"))


def do_parameter(model: nn.Module, inputs: Callable[[], Iterator[Input]]) -> None:
    """Prints the modules down to the fifth level, and the exact number."""
    print(parameter_count_table(model, max_depth=5))
    print(f"total: {sum(parameter.numel() for parameter in model.parameters()):,} parameters")


def do_structure(model: nn.Module, inputs: Callable[[], Iterator[Input]]) -> None:
    """Prints the modules."""
    print(model)


TASKS = {
    "flop": do_flop,
    "activation": do_activation,
    "parameter": do_parameter,
    "structure": do_structure,
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="YAML; default: that in MODEL.WEIGHTS")
    add(
        "--tasks",
        required=True,
        nargs="+",
        action="extend",
        choices=TASKS,
        help="one or several",
    )
    add("-n", "--num-inputs", type=positive, default=100, help="images (default: %(default)s)")
    add("--use-fixed-input-size", action="store_true", help="one input of zeros, no data set")
    add_import_argument(parser)
    add(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="override the file; not right after --tasks",
    )
    args = parser.parse_args(argv)
    if args.config_file is None and "MODEL.WEIGHTS" not in args.opts[::2]:
        parser.error("there is no model; name --config-file FILE, or MODEL.WEIGHTS CHECKPOINT")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Does the tasks in the order given."""
    args = parse_args(argv)
    with telling_errors():
        import_code(args.imports)
        # The counts are the same on any device.
        cfg = load_trained_config(args.config_file, args.opts, device="cpu", evaluate=True)
        model = build_model(cfg).eval()
        counted = AsPublished(model) if isinstance(model, MaskFormer) else model

        def inputs() -> Iterator[Input]:
            if args.use_fixed_input_size:
                return iter([fixed_input(cfg)])
            return dataset_inputs(cfg, args.num_inputs)

        with torch.no_grad():
            for task in args.tasks:
                TASKS[task](counted if task in ("flop", "activation") else model, inputs)
