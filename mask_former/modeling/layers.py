"""Small building blocks that several modules share."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..structures import Convolution

NormFactory = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.Module:
    """GroupNorm with the 32 groups of the published models."""
    return nn.GroupNorm(32, channels)


def init_conv(conv: nn.Conv2d) -> None:
    """Uniform within sqrt(3 / fan-in), zero bias: Caffe2's Xavier filling."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class ConvNorm(nn.Conv2d):
    """Convolution that keeps the size, then norm, then ReLU; parameters ``weight``, ``norm.*``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm: NormFactory | None,
        relu: bool,
    ) -> None:
        """Builds the block.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            kernel_size: side of the kernel; odd.
            norm: makes the norm from its channels; without one the convolution has a bias.
            relu: whether a ReLU ends the block.
        """
        super().__init__(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=norm is None
        )
        self.norm = nn.Identity() if norm is None else norm(out_channels)
        self.relu = relu
        init_conv(self)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, h, w] to [B, out_channels, h, w]."""
        x = self.norm(super().forward(x))
        # In place, since no norm keeps its output for its gradient; but a hook may keep it.
        return F.relu(x, inplace=is_untouched(self.norm)) if self.relu else x


_METHODS = ("forward", "forward_features", "decode", "encode", "_conv_forward")


def methods_of(kind: type[nn.Module]) -> list[Any]:
    """What a shortcut relies on in a class; taken at import, it tells if a class was patched."""
    return [getattr(kind, name, None) for name in _METHODS]


_PLAIN_METHODS = methods_of(nn.Conv2d)


def is_untouched(module: nn.Module) -> bool:
    """Whether a module runs its class's methods and nothing else: it has no hook and no patch.

    Hooks of all modules at once, which PyTorch has for profiling, do not count: its own counter of
    operations is one, and is to count what runs.
    """
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return not (any(hooks) or set(_METHODS) & vars(module).keys())


def plain_convolution(module: nn.Module) -> Convolution | None:
    """The weights of a convolution that is nothing but that; None for any other module.

    Whoever computes with the weights in the module's place leaves out subclasses, hooks and other
    ways of padding, so these are not plain.
    """
    if type(module) is not nn.Conv2d or methods_of(nn.Conv2d) != _PLAIN_METHODS:
        return None
    if not is_untouched(module) or module.bias is None:
        return None
    side = module.kernel_size[0]
    found = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
    plain = ((side, side), (1, 1), (side // 2, side // 2), (1, 1), 1)
    if found != plain or side % 2 == 0 or module.padding_mode != "zeros":
        return None
    return Convolution(module.weight, module.bias)


class MLP(nn.Module):
    """Linear layers with ReLU between them; parameters ``layers.{i}``."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, num_layers: int) -> None:
        super().__init__()
        widths = [in_channels, *[hidden] * (num_layers - 1), out_channels]
        self.layers = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_channels] to [..., out_channels]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)
