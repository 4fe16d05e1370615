"""Attention within the windows of Swin (Liu et al. 2021), and the windows themselves.

Maps are [B, H, W, C], channels last; N = window * window cells in each of n windows an image. A
learned bias for each offset of two cells is added to the attention logits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Added to the logits between cells that the shift has made neighbours: small enough for the
# softmax, and the value that the published weights were trained with.
_APART = -100.0
# CUDA launches at most so many blocks along the axes of batch and heads.
_CUDA_GRID = 65_535


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
        bias = self.relative_position_bias_table[self.relative_position_index]  # [N, N, heads]
        bias = bias.movedim(2, 0)[None]  # [1, heads, N, N]
        if apart is not None:
            bias = bias + _APART * apart[:, None].to(bias.dtype)  # [n, heads, N, N]
        # The fused kernels take four axes. Where windows share the bias, each is an image of its
        # own; else they stand beside the heads.
        windows = x.flatten(0, 1)[:, None] if apart is None else x
        qkv = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1))
        # [*, n or 1, N, 3, heads, C / heads] to three of [*, n * heads or heads, N, C / heads]
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3).unbind()
        attended = _attention(
            query,
            key,
            value,
            # To the whole batch, as an exporter takes a batch that is left to be fitted for 1.
            bias.flatten(0, 1).to(query.dtype).expand(query.shape[0], -1, -1, -1),
            self.attention_dropout if self.training else 0.0,
            self.scale,
            _CUDA_GRID if query.is_cuda else None,
        )
        attended = attended.unflatten(1, (-1, self.num_heads)).transpose(2, 3)
        return self.proj_drop(self.proj(attended.reshape(x.shape)))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    dropout: float,
    scale: float,
    most: int | None,
) -> Tensor:
    """Fused attention, in as many parts as the kernels need.

    Args:
        query: [batch, heads, N, C / heads], like ``key`` and ``value``.
        key: what the queries are compared with.
        value: what they find.
        bias: [batch, heads, N, N], added to the attention logits.
        dropout: share of dropped attention weights.
        scale: factor of the attention logits.
        most: the greatest length of the axes of batch and heads; None: there is no limit.
    """
    for axis in (0, 1):
        if most is not None and query.shape[axis] > most:
            parts = [tensor.split(most, axis) for tensor in (query, key, value, bias)]
            rows = zip(*parts, strict=True)
            done = [_attention(q, k, v, some, dropout, scale, most) for q, k, v, some in rows]
            return torch.cat(done, dim=axis)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale
    )


def relative_position_index(window: int) -> Tensor:
    """Row [N, N] of the bias table for each pair of cells, by the offset between the two."""
    cells = torch.cartesian_prod(torch.arange(window), torch.arange(window))  # [N, 2]
    offsets = cells[:, None] - cells[None, :] + window - 1  # [N, N, 2], from 0
    return offsets[..., 0] * (2 * window - 1) + offsets[..., 1]


def whole(length: int, part: int) -> int:
    """The least multiple of a part that is no less than a length.

    Written so that an exporter's symbols stay simple: it is seen that it is a multiple.
    """
    return (length + part - 1) // part * part


def split_windows(x: Tensor, window: int) -> Tensor:
    """[B, H, W, C] to [B, n, N, C], windows in row-major order; sides are multiples of a window."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def join_windows(x: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`split_windows`; ``size`` is (H, W)."""
    height, width = size
    x = x.view(x.shape[0], height // window, width // window, window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(x.shape[0], height, width, -1)


def shift_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """Pairs of cells of a window that only the cyclic shift has brought together.

    Args:
        height: height of the map, before it is padded to whole windows.
        width: width of the map, before it is padded.
        window: side of a window; the shift is half of it, rounded down.
        device: the device of the result.

    Returns:
        bool [n, N, N]
    """

    def regions(length: int) -> Tensor:
        padded = whole(length, window)
        # After the shift the last window holds cells of both ends of an axis; others are whole.
        position = torch.arange(padded, device=device)
        return (position >= padded - window).long() + (position >= padded - window // 2).long()

    region = 3 * regions(height)[:, None] + regions(width)
    cells = split_windows(region[None, :, :, None], window)[0, :, :, 0]  # [n, N]
    return cells[:, :, None] != cells[:, None, :]
