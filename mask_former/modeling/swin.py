"""Swin transformer (Liu et al. 2021), a backbone of four stages with attention in shifted windows.

Maps are [B, H, W, C], channels last, up to the features that leave. Attribute names give the
state-dict keys of the published checkpoints.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .window_attention import WindowAttention, join_windows, shift_mask, split_windows, whole


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
        right, bottom = (
            whole(width, self.patch_size) - width,
            whole(height, self.patch_size) - height,
        )
        images = F.pad(images, (0, right, 0, bottom))
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
        x = F.pad(x, (0, 0, 0, whole(width, 2) - width, 0, whole(height, 2) - height))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # [B, rows, 2, columns, 2, C]
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # a cell, then the one below, then the next two
        return self.reduction(self.norm(x))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops the whole branch for some samples of a batch."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] to the same; what is kept is scaled so that the mean stays."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class FeedForward(nn.Module):
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
    """Window attention, then FFN; pre-norm, with stochastic depth."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        *,
        window: int,
        shift: int,
        mlp_ratio: float,
        qkv_bias: bool,
        qk_scale: float | None,
        dropout: float,
        attention_dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(
            channels, num_heads, window, qkv_bias, qk_scale, attention_dropout, dropout
        )
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, int(channels * mlp_ratio), dropout)

    def forward(self, x: Tensor, apart: Tensor) -> Tensor:
        """[B, H, W, C] to the same; ``apart`` as :func:`shift_mask` gives it."""
        x = x + self.drop_path(self._attend(self.norm1(x), apart))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, apart: Tensor) -> Tensor:
        window, (height, width) = self.window, x.shape[1:3]
        size = whole(height, window), whole(width, window)
        # Padding is zero after the norm, and attends like any other cell.
        x = F.pad(x, (0, 0, 0, size[1] - width, 0, size[0] - height))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
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
            x = checkpoint(block, x, apart, use_reentrant=False) if recompute else block(x, apart)
        return x


class SwinTransformer(nn.Module):
    """Images to features named res2, res3, … of strides 4, 8, … (with patches of 4 pixels).

    The defaults are those of Swin-T.

    Args:
        patch_size: side of a patch, in pixels.
        embed_dim: channels of the first stage; they double from stage to stage.
        depths: blocks of each stage.
        num_heads: attention heads of each stage; they divide its channels.
        window: side of a window, in cells.
        mlp_ratio: hidden width of the FFNs, relative to the channels.
        qkv_bias: whether query, key and value have a bias.
        qk_scale: factor of the attention logits; None or 0 for 1 / sqrt(channels of a head).
        dropout: share of dropped tokens and outputs of attention and FFN.
        attention_dropout: share of dropped attention weights.
        drop_path: stochastic depth of the last block; it grows linearly from 0.
        patch_norm: a LayerNorm after the patch embedding.
        absolute_grid: side of a learned map of absolute positions; None for none.
        out_features: names of the features to give. Stages that none of them needs are not
            computed. They keep their place in the state dict, as does the norm of a feature
            that is not given, but take no gradient: data-parallel training then waits for none.
        recompute: gradient checkpointing in training: less memory, a third more time.

    Raises:
        ValueError: an unknown feature, or heads that do not divide the channels.
    """

    def __init__(
        self,
        *,
        patch_size: int = 4,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.3,
        patch_norm: bool = True,
        absolute_grid: int | None = None,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        recompute: bool = False,
    ) -> None:
        super().__init__()
        channels = [embed_dim * 2**stage for stage in range(len(depths))]
        self.channels = {f"res{stage + 2}": width for stage, width in enumerate(channels)}
        self.strides = {name: patch_size * 2**i for i, name in enumerate(self.channels)}
        _check_stages(self.channels, num_heads, out_features)
        self.out_features = list(out_features)
        self.recompute = recompute
        self.absolute_pos_embed: nn.Parameter | None = None
        if absolute_grid is not None:
            grid = torch.empty(1, embed_dim, absolute_grid, absolute_grid)
            self.absolute_pos_embed = nn.Parameter(nn.init.trunc_normal_(grid, std=0.02))
        self.patch_embed = PatchEmbed(patch_size, embed_dim, patch_norm)
        self.pos_drop = nn.Dropout(dropout)
        block = partial(
            SwinBlock,
            window=window,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            dropout=dropout,
            attention_dropout=attention_dropout,
        )
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
        self.layers = nn.ModuleList(
            _stages(block, channels, num_heads, depths, window, iter(rates))
        )
        for stage, width in enumerate(channels):
            self.add_module(f"norm{stage}", nn.LayerNorm(width))
        self.apply(_init_linear)
        self._freeze_unused()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features [B, channels, height, width] by name, those of ``out_features``.

        Args:
            images: [B, 3, H, W]; normalised, of any size.
        """
        x = self.patch_embed(images)
        if self.absolute_pos_embed is not None:
            pos = F.interpolate(self.absolute_pos_embed, size=x.shape[1:3], mode="bicubic")
            x = x + pos.permute(0, 2, 3, 1)
        x = self.pos_drop(x)
        # Features lie as the model's convolutions do.
        weight = self.patch_embed.proj.weight
        is_last = weight.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if is_last else torch.contiguous_format
        features = {}
        recompute = self.recompute and self.training and torch.is_grad_enabled()
        for stage, name in enumerate(self._computed()):
            if stage:
                x = self.layers[stage - 1].get_submodule("downsample")(x)
            x = self.layers[stage](x, recompute)
            if name in self.out_features:
                normed = self.get_submodule(f"norm{stage}")(x)
                features[name] = normed.permute(0, 3, 1, 2).contiguous(memory_format=layout)
        return features

    def _computed(self) -> list[str]:
        """The features up to the last one that is given."""
        names = list(self.channels)
        return names[: 1 + max(names.index(name) for name in self.out_features)]

    def _freeze_unused(self) -> None:
        computed = self._computed()
        for stage, name in enumerate(self.channels):
            if name not in self.out_features:
                self.get_submodule(f"norm{stage}").requires_grad_(False)
            if name not in computed:
                self.layers[stage].requires_grad_(False)
                self.layers[stage - 1].get_submodule("downsample").requires_grad_(False)


def _stages(
    block: Callable[..., SwinBlock],
    channels: Sequence[int],
    num_heads: Sequence[int],
    depths: Sequence[int],
    window: int,
    rates: Iterator[float],
) -> Iterator[SwinStage]:
    """The stages with their blocks; ``rates`` gives the stochastic depth of each block in order."""
    for stage, (width, heads, depth) in enumerate(zip(channels, num_heads, depths, strict=True)):
        blocks = [
            block(width, heads, shift=index % 2 * (window // 2), drop_path=next(rates))
            for index in range(depth)
        ]
        last = stage == len(depths) - 1
        yield SwinStage(blocks, None if last else PatchMerging(width), window)


def _check_stages(
    channels: dict[str, int], num_heads: Sequence[int], out_features: Sequence[str]
) -> None:
    if len(num_heads) != len(channels):
        raise ValueError(f"{len(channels)} stages, but {len(num_heads)} numbers of heads")
    unknown = [name for name in out_features if name not in channels]
    if unknown or not out_features:
        raise ValueError(
            f"out_features must be some of {', '.join(channels)}, got {list(out_features)}"
        )
    for name, heads in zip(channels, num_heads, strict=True):
        if channels[name] % heads:
            raise ValueError(f"{heads} heads do not divide the {channels[name]} channels of {name}")


def _init_linear(module: nn.Module) -> None:
    """Convolutions and norms keep PyTorch's values."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
