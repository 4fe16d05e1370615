"""Attention within windows (Liu et al. 2021), with a learned bias for each offset of two cells."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .windows import relative_position_index

# Added to the logits between cells that the shift has made neighbours: small enough for the
# softmax, and the value that the published weights were trained with.
_APART = -100.0


class WindowAttention(nn.Module):
    """Attention among the N = window * window cells of each window, with a bias for each offset."""

    relative_position_index: Tensor

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window: int,
        qkv_bias: bool,
        qk_scale: float | None,
        attention_dropout: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = qk_scale or (channels // num_heads) ** -0.5
        self.attention_dropout = attention_dropout
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * window - 1) ** 2, num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, apart: Tensor | None) -> Tensor:
        """Attention within windows.

        Args:
            x: [B, n, N, C] for n windows an image.
            apart: bool [n, N, N], the pairs that must not attend to each other; None for none.

        Returns:
            [B, n, N, C]
        """
        bias = self._bias()[None]  # [1, heads, N, N]
        if apart is not None:
            bias = bias + _APART * apart[:, None].to(bias.dtype)  # [n, heads, N, N]
        # The fused kernels take four axes. Where windows share the bias, each is an image of its
        # own; else they stand beside the heads.
        windows = x.reshape(-1, len(bias), *x.shape[-2:])
        query, key, value = self._split(self.qkv(windows))
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=bias.flatten(0, 1)[None].to(query.dtype),  # four axes, or it is not fused
            dropout_p=self.attention_dropout if self.training else 0.0,
            scale=self.scale,
        )  # [*, n * heads, N, C / heads]
        attended = attended.unflatten(1, (-1, self.num_heads)).transpose(2, 3)
        return self.proj_drop(self.proj(attended.reshape(x.shape)))

    def _bias(self) -> Tensor:
        """[heads, N, N]"""
        return self.relative_position_bias_table[self.relative_position_index].movedim(2, 0)

    def _split(self, qkv: Tensor) -> Tensor:
        """[B, n, N, 3 C] to query, key and value [3, B, n * heads, N, C / heads]."""
        parts = qkv.unflatten(-1, (3, self.num_heads, -1))  # [B, n, N, 3, heads, C / heads]
        return parts.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
