"""Names of the weights of MaskFormerForInstanceSegmentation of transformers, and of ours."""

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import InputError

State = dict[str, Tensor]

_PIXELS, _QUERIES = "model.pixel_level_module", "model.transformer_module"
_DECODER, _HEAD = f"{_PIXELS}.decoder", "sem_seg_head.pixel_decoder"
_LAYER = "transformer.decoder.layers.#"
_SWIN, _RESNET = f"{_PIXELS}.encoder.model", f"{_PIXELS}.encoder"
_IN_BLOCK = f"{_SWIN}.encoder.layers.#.blocks.#"


def _resnet_stage(stage: int) -> Iterator[tuple[str, str]]:
    ours, theirs = f"backbone.res{stage + 2}.#", f"{_RESNET}.encoder.stages.{stage}.layers.#"
    parts = {"shortcut": "shortcut", **{f"conv{i + 1}": f"layer.{i}" for i in range(3)}}
    for mine, other in parts.items():
        yield f"{ours}.{mine}.norm.*", f"{theirs}.{other}.normalization.*"
        yield f"{ours}.{mine}.weight", f"{theirs}.{other}.convolution.weight"


RENAMINGS: tuple[tuple[str, str], ...] = (
    *(pair for stage in range(4) for pair in _resnet_stage(stage)),
    ("backbone.stem.conv1.norm.*", f"{_RESNET}.embedder.embedder.normalization.*"),
    ("backbone.stem.conv1.weight", f"{_RESNET}.embedder.embedder.convolution.weight"),
    ("backbone.patch_embed.proj.*", f"{_SWIN}.embeddings.patch_embeddings.projection.*"),
    ("backbone.patch_embed.norm.*", f"{_SWIN}.embeddings.norm.*"),
    ("backbone.layers.#.downsample.*", f"{_SWIN}.encoder.layers.#.downsample.*"),
    *(
        (f"backbone.layers.#.blocks.#.{ours}.*", f"{_IN_BLOCK}.{theirs}.*")
        for ours, theirs in (
            ("norm1", "layernorm_before"),
            ("norm2", "layernorm_after"),
            ("attn.proj", "attention.output.dense"),
            ("attn.qkv", "attention.self.qkv"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        )
    ),
    *(
        (f"backbone.layers.#.blocks.#.attn.{name}", f"{_IN_BLOCK}.attention.self.{name}")
        for name in ("relative_position_bias_table", "relative_position_index")
    ),
    *((f"backbone.norm{i}.*", f"{_RESNET}.hidden_states_norms.{i}.*") for i in range(4)),
    (f"{_HEAD}.layer_4.norm.*", f"{_DECODER}.fpn.stem.1.*"),
    (f"{_HEAD}.layer_4.weight", f"{_DECODER}.fpn.stem.0.weight"),
    *(
        (f"{_HEAD}.{ours}_{3 - i}{mine}", f"{_DECODER}.fpn.layers.{i}.{theirs}.{other}")
        for i in range(3)
        for ours, theirs in (("adapter", "proj"), ("layer", "block"))
        for mine, other in ((".norm.*", "1.*"), (".weight", "0.weight"))
    ),
    (f"{_HEAD}.mask_features.*", f"{_DECODER}.mask_projection.*"),
    ("sem_seg_head.predictor.query_embed.*", f"{_QUERIES}.queries_embedder.*"),
    ("sem_seg_head.predictor.input_proj.*", f"{_QUERIES}.input_projection.*"),
    ("sem_seg_head.predictor.class_embed.*", "class_predictor.*"),
    ("sem_seg_head.predictor.mask_embed.layers.#.*", "mask_embedder.#.0.*"),
    *(
        (f"sem_seg_head.predictor.{_LAYER}.{ours}", f"{_QUERIES}.decoder.layers.#.{theirs}")
        for ours, theirs in (
            ("self_attn.in_proj_*", "self_attn.in_proj.*"),
            ("self_attn.out_proj.*", "self_attn.o_proj.*"),
            ("multihead_attn.in_proj_*", "encoder_attn.in_proj.*"),
            ("multihead_attn.out_proj.*", "encoder_attn.o_proj.*"),
            ("linear1.*", "mlp.fc1.*"),
            ("linear2.*", "mlp.fc2.*"),
            ("norm1.*", "self_attn_layer_norm.*"),
            ("norm2.*", "encoder_attn_layer_norm.*"),
            ("norm3.*", "final_layer_norm.*"),
        )
    ),
    ("sem_seg_head.predictor.transformer.decoder.norm.*", f"{_QUERIES}.decoder.layernorm.*"),
)
"""Names of ours and of theirs; # is a number, * the rest."""
FUSED = {"in_proj": ("q_proj", "k_proj", "v_proj"), "qkv": ("query", "key", "value")}
"""One tensor of ours for three of theirs."""
OLDER = (
    (r"(self_attn|encoder_attn)\.out_proj\.", r"\1.o_proj."),
    (r"(\d)\.fc([12])\.", r"\1.mlp.fc\2."),
)
"""Names in published files, and what they are now."""
UNUSED = (r".*\.num_batches_tracked", r".*encoder\.model\.layernorm\..*", r"criterion\..*")
"""Tensors of theirs that no result depends on."""


def from_theirs(weights: Mapping[str, Tensor]) -> State:
    """Our names for their tensors.

    Raises:
        InputError: a tensor has no counterpart.
    """
    found = {}
    for name, value in weights.items():
        for old, new in OLDER:
            name = re.sub(old, new, name)
        found[name] = value
    for fused, parts in FUSED.items():
        first = [name for name in found if f".{parts[0]}." in name]
        for name in first:
            three = [found.pop(name.replace(f".{parts[0]}.", f".{part}.")) for part in parts]
            found[name.replace(f".{parts[0]}.", f".{fused}.")] = torch.cat(three)
    found = {k: v for k, v in found.items() if not any(re.fullmatch(u, k) for u in UNUSED)}
    return _renamed(found, [(theirs, ours) for ours, theirs in RENAMINGS], "ours")


def to_theirs(weights: Mapping[str, Tensor]) -> State:
    """Their names for our tensors, and those that they have beside.

    Raises:
        InputError: a tensor has no counterpart.
    """
    kept = {k: v for k, v in weights.items() if not k.startswith("criterion.")}
    found = _renamed(kept, RENAMINGS, "MaskFormerForInstanceSegmentation of transformers")
    for fused, parts in FUSED.items():
        for name in [name for name in found if f".{fused}." in name]:
            thirds = found.pop(name).chunk(3)
            for part, third in zip(parts, thirds, strict=True):
                found[name.replace(f".{fused}.", f".{part}.")] = third.contiguous()
    _add_unused(found)
    return found


def _add_unused(weights: State) -> None:
    """Adds what no result depends on; without it transformers would say that it is new."""
    last = weights.get(f"{_RESNET}.hidden_states_norms.3.weight")
    if last is not None:  # of Swin
        weights[f"{_SWIN}.layernorm.weight"] = torch.ones(len(last))
        weights[f"{_SWIN}.layernorm.bias"] = torch.zeros(len(last))
    for name in [name for name in weights if name.endswith("normalization.running_mean")]:
        counter = name.replace("running_mean", "num_batches_tracked")
        weights[counter] = torch.zeros((), dtype=torch.int64)


def _renamed(weights: Mapping[str, Tensor], rules: Sequence[tuple[str, str]], side: str) -> State:
    renamed, missing = {}, []
    for name, value in weights.items():
        new = next(filter(None, (_apply(rule, name) for rule in rules)), None)
        if new is None:
            missing.append(name)
        else:
            renamed[new] = value
    if missing:
        raise InputError(
            f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}: no counterpart in "
            f"{side} ({len(missing)} tensors); the model has a part that the other side lacks"
        )
    return renamed


def _apply(rule: tuple[str, str], name: str) -> str | None:
    source, target = rule
    pattern = re.escape(source).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)")
    match = re.fullmatch(pattern, name)
    if match is None:
        return None
    values = iter(match.groups())
    return re.sub(r"[#*]", lambda _: next(values), target)
