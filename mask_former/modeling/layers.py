"""Small building blocks that several modules share."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

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
        """
        Args:
            in_channels: of the input.
            out_channels: of the output.
            kernel_size: odd.
            norm: makes the norm from its channels; without one the convolution has a bias.
            relu: whether a ReLU ends the block.
        """
        super().__init__(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=norm is None
        )
        self.norm = nn.Identity() if norm is None else norm(out_channels)
        self.relu = relu
        init_conv(self)

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        """[B, in_channels, h, w] to [B, out_channels, h, w].

        Args:
            x: or a list of it alone, out of which it is taken: so nobody holds it any longer when
                the norm needs room.
        """
        y = self.norm(super().forward(x.pop() if isinstance(x, list) else x))
        # No norm keeps its output for its gradient.
        return F.relu_(y) if self.relu else y


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
