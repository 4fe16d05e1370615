"""A stage of Swin (Liu et al. 2021): blocks of window attention and MLP at one resolution.

Maps are [B, H, W, C], channels last. Every other block shifts its windows.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .patches import PatchMerging
from .window_attention import WindowAttention
from .windows import join_windows, shift_mask, split_windows


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops the whole branch for some samples of a batch."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] to the same; what is kept is scaled so that the mean stays."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class SwinBlock(nn.Module):
    """Window attention, then MLP; pre-norm, with stochastic depth."""

    def __init__(
        self, attention: WindowAttention, mlp: MLP, channels: int, shift: int, drop_path: float
    ) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attention
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = mlp

    def forward(self, x: Tensor, window: int, apart: Tensor) -> Tensor:
        """[B, H, W, C] to the same; ``apart`` as :func:`shift_mask` gives it."""
        x = x + self.drop_path(self._attend(self.norm1(x), window, apart))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, window: int, apart: Tensor) -> Tensor:
        _, height, width, _ = x.shape
        # Padding is zero after the norm, and attends like any other cell.
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        size = (x.shape[1], x.shape[2])
        windows = self.attn(split_windows(x, window), apart if self.shift else None)
        x = join_windows(windows, window, size)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]


class SwinStage(nn.Module):
    """Blocks of one resolution, and the step to the next."""

    def __init__(
        self, blocks: Sequence[SwinBlock], downsample: PatchMerging | None, window: int
    ) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor, recompute: bool) -> Tensor:
        """[B, H, W, C] to the same, without the step to the next stage.

        Args:
            x: the map.
            recompute: keep no activations inside the blocks; the backward pass computes them again.
        """
        apart = shift_mask(x.shape[1], x.shape[2], self.window, x.device)
        for block in self.blocks:
            if recompute:
                x = checkpoint(block, x, self.window, apart, use_reentrant=False)
            else:
                x = block(x, self.window, apart)
        return x
