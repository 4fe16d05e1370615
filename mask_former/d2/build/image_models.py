"""Backbones of timm and torchvision by name: ``MODEL.IMAGE_MODEL`` says which, and its weights.

Features are named as everywhere here, after their stride: res2 for 4, res3 for 8, … res5 for 32.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from math import log2
from typing import Any, Self

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import InputError, did_you_mean
from ..weights.reading import read_weights
from .registry import register

_logger = logging.getLogger(__name__)
_KEY = "MODEL.IMAGE_MODEL"


def backbone_and_weights(model: Mapping[str, Any]) -> tuple[str, str]:
    """What people call a backbone, and the file of the weights that a training starts from.

    Args:
        model: the section MODEL of a configuration.

    Returns:
        The name, and the file; empty where all weights are random.
    """
    name = model["BACKBONE"]["NAME"].removeprefix("build_").removesuffix("_backbone")
    if name in ("timm", "torchvision"):
        image_model = model["IMAGE_MODEL"]
        return f"{image_model['NAME']} of {name}", model["WEIGHTS"] or image_model["WEIGHTS"]
    if name.startswith("resnet"):
        name = f"{name}, depth {model['RESNETS']['DEPTH']}"
    return name, model["WEIGHTS"]


class ImageModelBackbone(Backbone):
    """A network that gives features, with what Detectron2 asks of a backbone."""

    def __init__(
        self, network: nn.Module, shapes: dict[str, ShapeSpec], channels_last: bool = False
    ) -> None:
        """Wraps a network.

        Args:
            network: normalised images [B, 3, H, W] to features, as a list in the order of
                ``shapes`` or as a dict with its names.
            shapes: channels and stride of each feature by name, fine to coarse.
            channels_last: the network's features are [B, height, width, channels].
        """
        super().__init__()
        self.network = network
        self.shapes = shapes
        self.channels_last = channels_last
        self._frozen_norms: list[nn.Module] = []

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] to features by name."""
        features = self.network(images)
        if not isinstance(features, dict):
            features = dict(zip(self.shapes, features, strict=True))
        if self.channels_last:
            return {k: x.permute(0, 3, 1, 2).contiguous() for k, x in features.items()}
        return features

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature by name."""
        return dict(self.shapes)

    @property
    def size_divisibility(self) -> int:
        """The largest stride, so that features fit each other."""
        return max(shape.stride for shape in self.shapes.values())

    def freeze(self, freeze_at: int) -> None:
        """Fixes all weights that a feature is computed from, and the statistics of their norms.

        Args:
            freeze_at: 0 for nothing; n for the feature ``res<n>``, as in Detectron2's ResNets.
        """
        if freeze_at == 0:
            return
        name = f"res{freeze_at}"
        if name not in self.shapes:
            raise InputError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, but {_KEY}.OUT_FEATURES has no {name}; "
                "give 0 to freeze nothing, or one of the features"
            )
        parameters = list(self.parameters())
        side = self.size_divisibility
        was_training, _ = self.training, self.eval()
        image = torch.zeros(1, 3, side, side, device=parameters[0].device)
        used = torch.autograd.grad(self(image)[name].sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, used, strict=True):
            parameter.requires_grad_(gradient is None)
        self._frozen_norms = [
            module
            for module in self.modules()
            if isinstance(module, _BatchNorm) and not module.weight.requires_grad
        ]
        self.train(was_training)

    def train(self, mode: bool = True) -> Self:
        """As in every module, but that frozen norms stay in evaluation mode."""
        super().train(mode)
        for norm in self._frozen_norms:
            norm.eval()
        return self


@register(BACKBONE_REGISTRY, "build_timm_backbone")
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ImageModelBackbone:
    """A model of timm that gives features (``features_only``)."""
    try:
        import timm
    except ImportError as error:
        raise InputError(
            "MODEL.BACKBONE.NAME build_timm_backbone needs timm; install it with `pip install timm`"
        ) from error
    name = cfg.MODEL.IMAGE_MODEL.NAME
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    try:
        info: Any = timm.create_model(name, features_only=True).feature_info
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"{_KEY}.NAME {name!r} of timm gives no features: {error}") from error
    sizes = zip(info.channels(), info.reduction(), strict=True)
    strides = dict(zip(info.out_indices, sizes, strict=True))
    chosen = _by_name(cfg, strides)
    network = timm.create_model(name, features_only=True, out_indices=tuple(chosen.values()))
    shapes = {feature: _spec(*strides[index]) for feature, index in chosen.items()}
    channels_last = getattr(network, "output_fmt", None) == "NHWC"
    return _loaded(cfg, ImageModelBackbone(network, shapes, channels_last))


@register(BACKBONE_REGISTRY, "build_torchvision_backbone")
def build_torchvision_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ImageModelBackbone:
    """A classifier of torchvision up to its last feature; a feature is a block's output."""
    from torchvision import models
    from torchvision.models.feature_extraction import create_feature_extractor

    name = cfg.MODEL.IMAGE_MODEL.NAME
    if name not in models.list_models(module=models):
        raise _unknown("torchvision", name, models.list_models(module=models))
    model = models.get_model(name, weights=None)
    outputs = _outputs_of_blocks(model)
    chosen = _by_name(cfg, outputs)
    extractor = create_feature_extractor(model, {block: f for f, block in chosen.items()})
    shapes = {feature: _spec(*outputs[block]) for feature, block in chosen.items()}
    return _loaded(cfg, ImageModelBackbone(extractor, shapes))


def _outputs_of_blocks(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Channels and stride of what blocks give, by the block's name; of a stride the last one's."""
    height, width = 256, 320  # in which no pooling to a fixed size looks like a stride
    last: dict[int, tuple[str, int]] = {}

    def note(name: str, output: Any) -> None:
        if not isinstance(output, Tensor) or output.dim() != 4:
            return
        stride = height // output.shape[2]
        if output.shape[2] * stride == height and output.shape[3] * stride == width:
            last[stride] = name, output.shape[1]

    trial = copy.deepcopy(model).to("meta").eval()  # shapes alone, nothing is computed
    for name, module in trial.named_modules():
        # Deeper ones are parts of a block: a bottleneck's first convolution has the stride before.
        if name and name.count(".") <= 1:
            module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
    try:
        trial(torch.empty(1, 3, height, width, device="meta"))
    except AssertionError as error:
        raise InputError(
            f"{_KEY}.NAME: this model of torchvision does not take images of any size ({error}); "
            "choose another"
        ) from error
    return {name: (channels, stride) for stride, (name, channels) in last.items()}


def _by_name(cfg: CfgNode, outputs: Mapping[Any, tuple[int, int]]) -> dict[str, Any]:
    """The outputs that ``OUT_FEATURES`` asks for by feature, fine to coarse.

    Args:
        cfg: the whole configuration.
        outputs: channels and stride of each by whatever its library calls it; of a stride the last
            one counts.
    """
    wanted = cfg.MODEL.IMAGE_MODEL.OUT_FEATURES
    strides = {f"res{log2(stride):g}": output for output, (_, stride) in outputs.items()}
    if len(strides) < len(outputs) or not wanted or set(wanted) - strides.keys():
        raise InputError(
            f"{_KEY}.OUT_FEATURES asks for {', '.join(wanted) or 'nothing'}; the features of "
            f"{_KEY}.NAME {cfg.MODEL.IMAGE_MODEL.NAME!r} have the strides "
            f"{', '.join(str(stride) for _, stride in outputs.values()) or 'of none'} (res2 is 4, "
            "res3 is 8, and so on); choose among them, or another model"
        )
    return {feature: strides[feature] for feature in sorted(wanted)}


def _spec(channels: int, stride: int) -> ShapeSpec:
    return ShapeSpec(channels=channels, stride=stride)


def _unknown(library: str, name: str, known: Sequence[str]) -> InputError:
    hint = did_you_mean(name, known) or f"; {library}.list_models() tells the names"
    return InputError(f"{_KEY}.NAME: {library} has no model {name!r}{hint}")


def _loaded(cfg: CfgNode, backbone: ImageModelBackbone) -> ImageModelBackbone:
    """The backbone with its weights, the first of them frozen, as the configuration says."""
    # MODEL.WEIGHTS would bring the backbone's weights as well.
    if cfg.MODEL.IMAGE_MODEL.WEIGHTS and not cfg.MODEL.WEIGHTS:
        _load(backbone.network, cfg.MODEL.IMAGE_MODEL.WEIGHTS, cfg.MODEL.IMAGE_MODEL.NAME)
    backbone.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    return backbone


def _load(network: nn.Module, file: str, name: str) -> None:
    """Fills all of a network from a file of its library; says what the file has beyond."""
    # timm's wrappers write blocks_0 for blocks.0, or put "model." before all names.
    try:
        weights = {k.replace(".", "_"): v for k, v in read_weights(file)["model"].items()}
    except OSError as error:
        raise InputError(f"cannot read {file}: {error}; mend {_KEY}.WEIGHTS") from error
    state = network.state_dict()
    own = {
        key: key.removeprefix("model.").replace(".", "_")
        for key in state
        if not key.endswith("num_batches_tracked")  # old files have none, and norms need none
    }
    faults = [
        f"{key} is {list(state[key].shape)}, in the file "
        + (f"{list(weights[given].shape)}" if given in weights else "missing")
        for key, given in own.items()
        if given not in weights or weights[given].shape != state[key].shape
    ]
    if faults:
        raise InputError(
            f"{file} is not of {_KEY}.NAME {name!r}: {len(faults)} of the backbone's {len(own)} "
            f"weights do not fit, such as {faults[0]}; give this model's file as {_KEY}.WEIGHTS"
        )
    network.load_state_dict(
        {key: torch.as_tensor(weights[given]) for key, given in own.items()}, strict=False
    )
    rest = [key for key in weights if key not in own.values() and "num_batches" not in key]
    left = ", ".join(rest[:5]) + (f" and {len(rest) - 5} more" if len(rest) > 5 else "")
    _logger.info(
        "%s: all %d weights of the backbone; left over: %s", file, len(own), left or "nothing"
    )
