"""The transformer of DETR (Carion et al. 2020, appendix A.3): encoder and decoder.

Position encodings join queries and keys of every layer, never values. Sequences are [B, S, C].
Image tokens that are padding alone, where a mask tells, are no keys and no values.
Attribute names give the state-dict keys of the published checkpoints.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.MultiheadAttention):
    """Does what its parent does with ``batch_first``, with the same parameters.

    Its parent goes over to [S, B, C], where a product with the weights is one for each token: in
    half precision they are copied as often, and a batch takes 1.3 to 1.5 times as long.
    """

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, padded: Tensor | None = None
    ) -> Tensor:
        """What the queries find.

        Args:
            query: [B, Q, C]
            key: [B, S, C]
            value: [B, S, C]
            padded: [B, S], bool; who takes no part. None: all take part.

        Returns:
            [B, Q, C]
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query, key, value = (
            F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )  # [B, heads, Q or S, C / heads]
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if padded is None else ~padded[:, None, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class LayerOptions(NamedTuple):
    """What all layers of a transformer have in common."""

    channels: int
    """C; even, and divisible by ``num_heads``."""
    num_heads: int = 8
    feedforward: int = 2048
    """Width of the FFN."""
    dropout: float = 0.1
    """Share of dropped activations, in [0, 1)."""
    pre_norm: bool = False
    """Norm before each step instead of after it."""


class _Layer(nn.Module):
    """One or two attentions, then an FFN, with a norm and a dropout for each step."""

    self_attn: Attention
    multihead_attn: Attention
    norm1: nn.LayerNorm
    norm2: nn.LayerNorm
    norm3: nn.LayerNorm
    dropout1: nn.Dropout
    dropout2: nn.Dropout
    dropout3: nn.Dropout

    def __init__(self, options: LayerOptions, attentions: Sequence[str]) -> None:
        super().__init__()
        self.pre_norm = options.pre_norm
        for name in attentions:
            self.add_module(name, Attention(options.channels, options.num_heads, options.dropout))
        self.linear1 = nn.Linear(options.channels, options.feedforward)
        self.dropout = nn.Dropout(options.dropout)
        self.linear2 = nn.Linear(options.feedforward, options.channels)
        for step in range(1, len(attentions) + 2):
            self.add_module(f"norm{step}", nn.LayerNorm(options.channels))
            self.add_module(f"dropout{step}", nn.Dropout(options.dropout))

    def feed_forward(self, x: Tensor) -> Tensor:
        """[..., C] to the same."""
        return self.linear2(self.dropout(F.relu(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Self-attention, then FFN."""

    def __init__(self, options: LayerOptions) -> None:
        super().__init__(options, ["self_attn"])

    def forward(self, x: Tensor, pos: Tensor, padded: Tensor | None = None) -> Tensor:
        """Tokens [B, S, C] to tokens [B, S, C]; arguments as :class:`TransformerEncoder`."""
        if self.pre_norm:
            y = self.norm1(x)
            x = x + self.dropout1(self.self_attn(y + pos, y + pos, y, padded))
            return x + self.dropout2(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout1(self.self_attn(x + pos, x + pos, x, padded)))
        return self.norm2(x + self.dropout2(self.feed_forward(x)))


class TransformerDecoderLayer(_Layer):
    """Self-attention of the queries, attention to the image, then FFN."""

    def __init__(self, options: LayerOptions) -> None:
        super().__init__(options, ["self_attn", "multihead_attn"])

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
            padded: tells which of them are padding.

        Returns:
            Queries [B, Q, C].
        """
        key = memory + pos
        if self.pre_norm:
            y = self.norm1(x)
            x = x + self.dropout1(self.self_attn(y + query_pos, y + query_pos, y))
            y = self.norm2(x)
            x = x + self.dropout2(self.multihead_attn(y + query_pos, key, memory, padded))
            return x + self.dropout3(self.feed_forward(self.norm3(x)))
        x = self.norm1(x + self.dropout1(self.self_attn(x + query_pos, x + query_pos, x)))
        x = self.norm2(x + self.dropout2(self.multihead_attn(x + query_pos, key, memory, padded)))
        return self.norm3(x + self.dropout3(self.feed_forward(x)))


class TransformerEncoder(nn.Module):
    """A stack of encoder layers; with pre-norm a last norm, also when the stack is empty."""

    def __init__(self, num_layers: int, options: LayerOptions) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerEncoderLayer(options) for _ in range(num_layers))
        self.norm = nn.LayerNorm(options.channels) if options.pre_norm else nn.Identity()
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

    def __init__(self, num_layers: int, options: LayerOptions) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerDecoderLayer(options) for _ in range(num_layers))
        self.norm = nn.LayerNorm(options.channels)
        init_transformer(self)

    def forward(
        self, query_pos: Tensor, memory: Tensor, pos: Tensor, padded: Tensor | None = None
    ) -> Tensor:
        """The queries start as zeros and differ by their positions alone.

        Args:
            query_pos: learned positions [1, Q, C].
            memory: image tokens [B, S, C].
            pos: their position encoding, as for :class:`TransformerEncoder`.
            padded: tells which of them are padding.

        Returns:
            [L, B, Q, C]; one entry for each layer.
        """
        # Not len(memory), which would fix the batch in an exported graph.
        x = torch.zeros_like(query_pos).expand(memory.shape[0], -1, -1)
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
            padded: tells which image tokens are padding.
        """
        return self.decoder(query_pos, self.encoder(x, pos, padded), pos, padded)


def init_transformer(module: nn.Module) -> None:
    """Xavier-uniform weights; biases and norms keep PyTorch's values."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
