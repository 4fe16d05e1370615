"""Predictions in every form that they come in."""

import pytest
import torch

from mask_former.structures import MaskPrediction


def outputs(layers=3):
    """As heads of this family of models give them: two images, five queries, three classes."""
    g = torch.Generator().manual_seed(0)
    each = [
        {
            "pred_logits": torch.randn(2, 5, 4, generator=g),
            "pred_masks": torch.randn(2, 5, 6, 7, generator=g),
        }
        for _ in range(layers)
    ]
    return each, {**each[-1], "aux_outputs": each[:-1]}


def test_a_dict_of_outputs_is_a_prediction():
    layers, given = outputs()
    prediction = MaskPrediction.from_outputs(given)
    assert prediction.class_logits.shape == (3, 2, 5, 4)
    for i, layer in enumerate(layers):
        assert torch.equal(prediction.class_logits[i], layer["pred_logits"])
        torch.testing.assert_close(prediction.mask_logits(i), layer["pred_masks"])


def test_logits_of_a_single_layer_need_no_axis():
    _, given = outputs(1)
    found = MaskPrediction.from_logits(given["pred_logits"], given["pred_masks"])
    torch.testing.assert_close(found.mask_logits(), given["pred_masks"])
    assert torch.equal(found.last().class_logits, given["pred_logits"][None])


def test_the_last_layer_alone():
    layers, given = outputs()
    last = MaskPrediction.from_outputs(given).last()
    assert last.class_logits.shape == (1, 2, 5, 4)
    torch.testing.assert_close(last.mask_logits(), layers[-1]["pred_masks"])


def test_gradients_reach_the_logits():
    logits = torch.randn(1, 2, 5, 6, 7, requires_grad=True)
    prediction = MaskPrediction.from_logits(torch.randn(1, 2, 5, 4), logits)
    (prediction.mask_logits() * torch.arange(7)).sum().backward()
    assert torch.equal(logits.grad[0, 0, 0, 0], torch.arange(7.0))


def test_what_is_missing_or_does_not_fit_is_told():
    _, given = outputs()
    with pytest.raises(ValueError, match="pred_masks is needed"):
        MaskPrediction.from_outputs({"pred_logits": given["pred_logits"]})
    with pytest.raises(ValueError, match=r"got \[2, 5, 4\] and \[2, 4, 6, 7\]|got \[1, 2, 5, 4\]"):
        MaskPrediction.from_logits(given["pred_logits"], given["pred_masks"][:, :4])
