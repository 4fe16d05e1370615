"""The steps of Swin (Liu et al. 2021) to a coarser map: image to patches, four cells to one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Image to tokens: one linear map for each patch."""

    def __init__(self, patch_size: int, channels: int, norm: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, channels, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, ceil(H / patch), ceil(W / patch), C]."""
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.patch_size, 0, -height % self.patch_size))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Halves the resolution: four neighbours become one cell of twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] to [B, ceil(H / 2), ceil(W / 2), 2 C]."""
        _, height, width, _ = x.shape
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        even, odd = x[:, ::2], x[:, 1::2]
        x = torch.cat([even[:, :, ::2], odd[:, :, ::2], even[:, :, 1::2], odd[:, :, 1::2]], dim=-1)
        return self.reduction(self.norm(x))
