"""A model that will only be evaluated can be faster; the numbers stay, but for float noise."""

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..modeling.layers import is_untouched


def optimize_for_inference(model: nn.Module) -> nn.Module:
    """Joins batch norms with their convolutions, and on a CPU lays out weights channels_last.

    Afterwards the model can be neither trained nor saved: the norms are gone. Load weights before.
    A norm or a convolution of another class, or with a hook, such as those by which weights are
    normalised or pruned, stays as it is.

    Args:
        model: changed in place.

    Returns:
        The model, in evaluation mode.
    """
    model.eval().requires_grad_(False)
    for module in model.modules():
        if type(module) is Conv2d and is_untouched(module):
            _join_norm(module)
    # Measured on a CPU; elsewhere MODEL.CHANNELS_LAST decides.
    if all(parameter.device.type == "cpu" for parameter in model.parameters()):
        model.to(memory_format=torch.channels_last)
    return model


def _join_norm(convolution: Conv2d) -> None:
    norm = convolution.norm
    if type(norm) not in (FrozenBatchNorm2d, nn.BatchNorm2d) or not is_untouched(norm):
        return
    if norm.running_mean is None:  # it takes the statistics of each batch
        return
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    convolution.norm = None
