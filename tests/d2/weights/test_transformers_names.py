"""Names of weights there and here; tests/tools/test_convert_transformers.py compares outputs."""

import pytest
import torch

from mask_former.d2.errors import InputError
from mask_former.d2.weights.transformers_names import from_theirs, to_theirs


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self_attn.out_proj.weight", "self_attn.out_proj.weight"),
        ("encoder_attn.out_proj.bias", "multihead_attn.out_proj.bias"),
        ("fc1.weight", "linear1.weight"),
        ("mlp.fc2.bias", "linear2.bias"),
    ],
)
def test_names_of_published_files(old: str, new: str):
    name = f"model.transformer_module.decoder.layers.3.{old}"
    (found,) = from_theirs({name: torch.zeros(1)})
    assert found == f"sem_seg_head.predictor.transformer.decoder.layers.3.{new}"


def test_tensors_without_counterpart_are_named():
    name = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.norm1.weight"
    with pytest.raises(InputError, match=f"{name}: no counterpart"):
        to_theirs({name: torch.zeros(1)})
    with pytest.raises(InputError, match=r"model\.new\.weight: no counterpart in ours"):
        from_theirs({"model.new.weight": torch.zeros(1)})
