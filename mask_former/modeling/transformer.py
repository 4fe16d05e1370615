"""The transformer of DETR (Carion et al. 2020, appendix A.3): encoder and decoder.

Position encodings join queries and keys of every layer, never values. Sequences are [B, S, C].
Image tokens that are padding alone, where a mask tells, are no keys and no values.
Attribute names give the state-dict keys of the published checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention


class _FeedForward(nn.Module):
    """What encoder and decoder layers share: the FFN, and norms before or after each step."""

    linear1: nn.Linear
    linear2: nn.Linear
    dropout: nn.Dropout

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(F.relu(self.linear1(x))))


class TransformerEncoderLayer(_FeedForward):
    """Self-attention, then FFN."""

    def __init__(
        self, channels: int, num_heads: int, feedforward: int, dropout: float, pre_norm: bool
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = Attention(channels, num_heads, dropout)
        self.linear1 = nn.Linear(channels, feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(feedforward, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, x: Tensor, pos: Tensor, padded: Tensor | None = None) -> Tensor:
        """Tokens [B, S, C] to tokens [B, S, C]; arguments as :class:`TransformerEncoder`."""
        if self.pre_norm:
            x = x + self.dropout1(self._attend(self.norm1(x), pos, padded))
            return x + self.dropout2(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout1(self._attend(x, pos, padded)))
        return self.norm2(x + self.dropout2(self.feed_forward(x)))

    def _attend(self, x: Tensor, pos: Tensor, padded: Tensor | None) -> Tensor:
        return self.self_attn(x + pos, x + pos, x, padded)


class TransformerDecoderLayer(_FeedForward):
    """Self-attention of the queries, attention to the image, then FFN."""

    def __init__(
        self, channels: int, num_heads: int, feedforward: int, dropout: float, pre_norm: bool
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = Attention(channels, num_heads, dropout)
        self.multihead_attn = Attention(channels, num_heads, dropout)
        self.linear1 = nn.Linear(channels, feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(feedforward, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.dropout3 = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        query_pos: Tensor,
        memory: Tensor,
        pos: Tensor,
        padded: Tensor | None = None,
    ) -> Tensor:
        """One layer.

        Args:
            x: queries [B, Q, C].
            query_pos: their learned positions [1, Q, C].
            memory: image tokens [B, S, C].
            pos: their position encoding, as for :class:`TransformerEncoder`.
            padded: which of them are padding.

        Returns:
            Queries [B, Q, C].
        """
        image = memory + pos, memory, padded
        if self.pre_norm:
            x = x + self.dropout1(self._attend_queries(self.norm1(x), query_pos))
            x = x + self.dropout2(self._attend_image(self.norm2(x), query_pos, *image))
            return x + self.dropout3(self.feed_forward(self.norm3(x)))
        x = self.norm1(x + self.dropout1(self._attend_queries(x, query_pos)))
        x = self.norm2(x + self.dropout2(self._attend_image(x, query_pos, *image)))
        return self.norm3(x + self.dropout3(self.feed_forward(x)))

    def _attend_queries(self, x: Tensor, query_pos: Tensor) -> Tensor:
        return self.self_attn(x + query_pos, x + query_pos, x)

    def _attend_image(
        self, x: Tensor, query_pos: Tensor, key: Tensor, value: Tensor, padded: Tensor | None
    ) -> Tensor:
        return self.multihead_attn(x + query_pos, key, value, padded)


class TransformerEncoder(nn.Module):
    """A stack of encoder layers; with pre-norm a last norm, also when the stack is empty."""

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        feedforward: int,
        dropout: float,
        num_layers: int,
        pre_norm: bool,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(channels, num_heads, feedforward, dropout, pre_norm)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(channels) if pre_norm else nn.Identity()
        init_transformer(self)

    def forward(self, x: Tensor, pos: Tensor, padded: Tensor | None = None) -> Tensor:
        """Tokens to tokens [B, S, C]; what padded ones become means nothing.

        Args:
            x: image tokens [B, S, C].
            pos: their position encoding, [1, S, C] or with ``padded`` [B, S, C].
            padded: [B, S], bool; the tokens that are padding alone. None: none is.
        """
        for layer in self.layers:
            x = layer(x, pos, padded)
        return self.norm(x)


class TransformerDecoder(nn.Module):
    """A stack of decoder layers that gives the output of every layer, under one shared norm."""

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        feedforward: int,
        dropout: float,
        num_layers: int,
        pre_norm: bool,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerDecoderLayer(channels, num_heads, feedforward, dropout, pre_norm)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(channels)
        init_transformer(self)

    def forward(
        self, query_pos: Tensor, memory: Tensor, pos: Tensor, padded: Tensor | None = None
    ) -> Tensor:
        """The queries start as zeros and differ by their positions alone.

        Args:
            query_pos: learned positions [1, Q, C].
            memory: image tokens [B, S, C].
            pos: their position encoding, as for :class:`TransformerEncoder`.
            padded: which of them are padding.

        Returns:
            [L, B, Q, C]; one entry for each layer.
        """
        x = torch.zeros_like(query_pos).expand(len(memory), -1, -1)
        outputs = []
        for layer in self.layers:
            x = layer(x, query_pos, memory, pos, padded)
            outputs.append(self.norm(x))
        return torch.stack(outputs)


class Transformer(nn.Module):
    """Encoder and decoder under the names of the published checkpoints."""

    def __init__(self, encoder: TransformerEncoder, decoder: TransformerDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(
        self, x: Tensor, pos: Tensor, query_pos: Tensor, padded: Tensor | None = None
    ) -> Tensor:
        """Queries of every layer [L, B, Q, C].

        Args:
            x: image tokens [B, S, C].
            pos: their position encoding, as for :class:`TransformerEncoder`.
            query_pos: learned positions of the queries [1, Q, C].
            padded: which image tokens are padding.
        """
        return self.decoder(query_pos, self.encoder(x, pos, padded), pos, padded)


def init_transformer(module: nn.Module) -> None:
    """Xavier-uniform weights; biases and norms keep PyTorch's values."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
