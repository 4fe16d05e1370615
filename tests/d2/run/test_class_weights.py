"""Which class weights hold, and that they act."""

import pytest
import torch

from mask_former.d2.errors import InputError
from mask_former.d2.trainer import Trainer
from tests.small_runs import tiny_cfg

KEY, NO_OBJECT = "MODEL.MASK_FORMER.CLASS_WEIGHTS", "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT"
WEIGHTS = [float(i) for i in range(11)]


def loaded(folder, options):
    """The class weights after a file of the defaults was loaded."""
    model = Trainer.build_model(tiny_cfg(folder))
    torch.save({"model": model.state_dict()}, folder / "w.pth")
    trainer = Trainer(tiny_cfg(folder, {**options, "MODEL.WEIGHTS": folder / "w.pth"}))
    trainer.resume_or_load(resume=False)
    return trainer.model.criterion.empty_weight.tolist()


@pytest.mark.usefixtures("images")
def test_a_key_that_is_set_wins(tmp_path, log):
    assert loaded(tmp_path, {KEY: WEIGHTS, NO_OBJECT: 0.25}) == [*WEIGHTS, 0.25]
    assert "CLASS_WEIGHTS and NO_OBJECT_WEIGHT hold, not those of the file" in log.text


@pytest.mark.usefixtures("images")
def test_else_the_file_decides(tmp_path, log):
    assert loaded(tmp_path, {NO_OBJECT: 0.25}) == pytest.approx([1.0] * 11 + [0.1])
    assert "NO_OBJECT_WEIGHT is 0.25, but the file's 0.1 holds" in log.text
    log.clear()
    loaded(tmp_path, {})
    assert "NO_OBJECT_WEIGHT" not in log.text


@pytest.mark.parametrize(
    ("weights", "fault"),
    [([1.0], "has 1 numbers for 11 classes"), ([-1.0] * 11, "each a number of 0 or more")],
)
def test_weights_that_cannot_be(tmp_path, weights, fault):
    with pytest.raises(InputError, match=rf"CLASS_WEIGHTS .*{fault}"):
        Trainer.build_model(tiny_cfg(tmp_path, {KEY: weights}))


def test_heads_that_do_not_know_them(tmp_path):
    baseline = {
        "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
        "MODEL.SEM_SEG_HEAD.NAME": "PerPixelBaselineHead",
    }
    with pytest.raises(InputError, match=r"CLASS_WEIGHTS are set, which .*SemanticSegmentor"):
        Trainer.build_model(tiny_cfg(tmp_path, {KEY: WEIGHTS, **baseline}))
