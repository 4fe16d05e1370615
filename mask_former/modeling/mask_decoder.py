"""Transformer decoder: queries to class logits and mask embeddings (paper, section 3.3)."""

from torch import Tensor, nn

from ..structures import MaskPrediction, Padding
from .layers import MLP, init_conv
from .position_encoding import check_even, image_tokens
from .transformer import LayerOptions, Transformer, TransformerDecoder, TransformerEncoder


class TransformerMaskDecoder(nn.Module):
    """Learned queries look at an image feature; each gives a class and a mask embedding.

    Without classes it gives mask embeddings alone, for :class:`PerPixelBaselinePlusHead`.
    Attribute names give the state-dict keys of the published checkpoints.

    Args:
        in_channels: channels of the image feature.
        num_classes: K; None for mask embeddings alone.
        num_queries: Q.
        hidden_dim: C; even, and divisible by ``num_heads``.
        mask_dim: D, the channels of the per-pixel embedding.
        num_heads: attention heads.
        feedforward: width of the FFNs.
        dropout: share of dropped activations, in [0, 1).
        encoder_layers: transformer encoder layers ahead of the decoder.
        decoder_layers: transformer decoder layers; at least 1.
        pre_norm: norm before each step instead of after it.
        deep_supervision: predict from every decoder layer instead of the last alone.
        enforce_input_projection: project the feature even if its channels are C already.
    """

    class_embed: nn.Linear | None

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int | None,
        num_queries: int,
        hidden_dim: int = 256,
        mask_dim: int = 256,
        num_heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
        encoder_layers: int = 0,
        decoder_layers: int = 6,
        pre_norm: bool = False,
        deep_supervision: bool = True,
        enforce_input_projection: bool = False,
    ) -> None:
        super().__init__()
        check_even(hidden_dim)
        options = LayerOptions(hidden_dim, num_heads, feedforward, dropout, pre_norm)
        self.deep_supervision = deep_supervision
        self.transformer = Transformer(
            TransformerEncoder(encoder_layers, options), TransformerDecoder(decoder_layers, options)
        )
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.input_proj: nn.Module = nn.Identity()
        if in_channels != hidden_dim or enforce_input_projection:
            self.input_proj = nn.Conv2d(in_channels, hidden_dim, kernel_size=1)
            init_conv(self.input_proj)
        self.class_embed = None if num_classes is None else nn.Linear(hidden_dim, num_classes + 1)
        # Two hidden layers, as in the paper (section 4.1).
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, num_layers=3)

    def forward(
        self, feature: Tensor, pixel_embed: Tensor, padding: Padding | None = None
    ) -> MaskPrediction:
        """Predictions of all layers, or of the last one without deep supervision.

        Args:
            feature: [B, in_channels, any height, any width]
            pixel_embed: [B, D, h, w]; it becomes part of the prediction as it is.
            padding: where the images end; cells of ``feature`` that are padding alone take part
                in no attention. None: all are image.
        """
        if self.class_embed is None:
            raise ValueError("a mask decoder without num_classes gives mask embeddings alone")
        queries = self.decode(feature, padding)
        return MaskPrediction(self.class_embed(queries), self.mask_embed(queries), pixel_embed)

    def decode(self, feature: Tensor, padding: Padding | None = None) -> Tensor:
        """[B, in_channels, height, width] to the queries [L, B, Q, C] of the predicting layers."""
        x, pos, padded = image_tokens(self.input_proj(feature), padding)
        queries = self.transformer(x, pos, self.query_embed.weight[None], padded)
        return queries if self.deep_supervision else queries[-1:]
