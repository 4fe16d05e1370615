"""The transformer of DETR (Carion et al. 2020, appendix A.3): encoder and decoder.

Position encodings join queries and keys of every layer, never values. Sequences are [B, S, C].
Attribute names give the state-dict keys of the published checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask_former.modeling.position_encoding import sine_position_encoding


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
        self.self_attn = nn.MultiheadAttention(channels, num_heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(channels, feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(feedforward, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        """Tokens [B, S, C] and their position encoding [1, S, C] to tokens [B, S, C]."""
        if self.pre_norm:
            x = x + self.dropout1(self._attend(self.norm1(x), pos))
            return x + self.dropout2(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout1(self._attend(x, pos)))
        return self.norm2(x + self.dropout2(self.feed_forward(x)))

    def _attend(self, x: Tensor, pos: Tensor) -> Tensor:
        return self.self_attn(x + pos, x + pos, x, need_weights=False)[0]


class TransformerDecoderLayer(_FeedForward):
    """Self-attention of the queries, attention to the image, then FFN."""

    def __init__(
        self, channels: int, num_heads: int, feedforward: int, dropout: float, pre_norm: bool
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = nn.MultiheadAttention(channels, num_heads, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(channels, num_heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(channels, feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(feedforward, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.dropout3 = nn.Dropout(dropout)

    def forward(self, x: Tensor, query_pos: Tensor, memory: Tensor, pos: Tensor) -> Tensor:
        """One layer.

        Args:
            x: queries [B, Q, C].
            query_pos: their learned positions [1, Q, C].
            memory: image tokens [B, S, C].
            pos: their position encoding [1, S, C].

        Returns:
            Queries [B, Q, C].
        """
        if self.pre_norm:
            x = x + self.dropout1(self._attend_queries(self.norm1(x), query_pos))
            x = x + self.dropout2(self._attend_image(self.norm2(x), query_pos, memory, pos))
            return x + self.dropout3(self.feed_forward(self.norm3(x)))
        x = self.norm1(x + self.dropout1(self._attend_queries(x, query_pos)))
        x = self.norm2(x + self.dropout2(self._attend_image(x, query_pos, memory, pos)))
        return self.norm3(x + self.dropout3(self.feed_forward(x)))

    def _attend_queries(self, x: Tensor, query_pos: Tensor) -> Tensor:
        return self.self_attn(x + query_pos, x + query_pos, x, need_weights=False)[0]

    def _attend_image(self, x: Tensor, query_pos: Tensor, memory: Tensor, pos: Tensor) -> Tensor:
        return self.multihead_attn(x + query_pos, memory + pos, memory, need_weights=False)[0]


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

    def forward(self, x: Tensor, pos: Tensor) -> Tensor:
        """Tokens [B, S, C] and their position encoding [1, S, C] to tokens [B, S, C]."""
        for layer in self.layers:
            x = layer(x, pos)
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

    def forward(self, query_pos: Tensor, memory: Tensor, pos: Tensor) -> Tensor:
        """The queries start as zeros and differ by their positions alone.

        Args:
            query_pos: learned positions [1, Q, C].
            memory: image tokens [B, S, C].
            pos: their position encoding [1, S, C].

        Returns:
            [L, B, Q, C]; one entry for each layer.
        """
        x = torch.zeros_like(query_pos).expand(len(memory), -1, -1)
        outputs = []
        for layer in self.layers:
            x = layer(x, query_pos, memory, pos)
            outputs.append(self.norm(x))
        return torch.stack(outputs)


class Transformer(nn.Module):
    """Encoder and decoder under the names of the published checkpoints."""

    def __init__(self, encoder: TransformerEncoder, decoder: TransformerDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x: Tensor, pos: Tensor, query_pos: Tensor) -> Tensor:
        """Queries of every layer [L, B, Q, C].

        Args:
            x: image tokens [B, S, C].
            pos: their position encoding [1, S, C].
            query_pos: learned positions of the queries [1, Q, C].
        """
        return self.decoder(query_pos, self.encoder(x, pos), pos)


def as_tokens(x: Tensor) -> Tensor:
    """[B, C, height, width] to [B, S, C]."""
    return torch.flatten(x, 2).transpose(1, 2)


def position_tokens(x: Tensor) -> Tensor:
    """Position encoding [1, S, C] of the cells of a map [B, C, height, width], of its type."""
    pos = sine_position_encoding(x.shape[2], x.shape[3], channels=x.shape[1], device=x.device)
    return as_tokens(pos[None]).to(x.dtype)


def init_transformer(module: nn.Module) -> None:
    """Xavier-uniform weights; biases and norms keep PyTorch's values."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
