"""Swin transformer (Liu et al. 2021), a backbone of four stages with attention in shifted windows.

Maps are [B, H, W, C], channels last, up to the features that leave. Attribute names give the
state-dict keys of the published checkpoints.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .patches import PatchEmbed, PatchMerging
from .swin_stage import MLP, SwinBlock, SwinStage
from .window_attention import WindowAttention


class SwinTransformer(nn.Module):
    """Images to features named res2, res3, … of strides 4, 8, … (with patches of 4 pixels)."""

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
        """The defaults are those of Swin-T.

        Args:
            patch_size: side of a patch, in pixels.
            embed_dim: channels of the first stage; they double from stage to stage.
            depths: blocks of each stage.
            num_heads: attention heads of each stage; they divide its channels.
            window: side of a window, in cells.
            mlp_ratio: hidden width of the MLPs, relative to the channels.
            qkv_bias: whether query, key and value have a bias.
            qk_scale: factor of the attention logits; None or 0 for 1 / sqrt(channels of a head).
            dropout: of tokens and of the outputs of attention and MLP.
            attention_dropout: of the attention weights.
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
        # Of all blocks in order.
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
        starts = [0, *accumulate(depths)]

        def block(stage: int, index: int) -> SwinBlock:
            width = channels[stage]
            attention = WindowAttention(
                width, num_heads[stage], window, qkv_bias, qk_scale, attention_dropout, dropout
            )
            return SwinBlock(
                attention,
                MLP(width, int(width * mlp_ratio), dropout),
                width,
                shift=index % 2 * (window // 2),
                drop_path=rates[starts[stage] + index],
            )

        self.layers = nn.ModuleList(
            SwinStage(
                [block(stage, index) for index in range(depth)],
                PatchMerging(channels[stage]) if stage < len(depths) - 1 else None,
                window,
            )
            for stage, depth in enumerate(depths)
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
        x = self.pos_drop(self._with_positions(self.patch_embed(images)))
        features = {}
        recompute = self.recompute and self.training and torch.is_grad_enabled()
        for stage, name in enumerate(self._computed()):
            if stage:
                x = self.layers[stage - 1].get_submodule("downsample")(x)
            x = self.layers[stage](x, recompute)
            if name in self.out_features:
                normed = self.get_submodule(f"norm{stage}")(x)
                features[name] = normed.permute(0, 3, 1, 2).contiguous()
        return features

    def _with_positions(self, x: Tensor) -> Tensor:
        if self.absolute_pos_embed is None:
            return x
        pos = F.interpolate(self.absolute_pos_embed, size=x.shape[1:3], mode="bicubic")
        return x + pos.permute(0, 2, 3, 1)

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
