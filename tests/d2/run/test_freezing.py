"""Parts that do not train: parameters, running statistics, and patterns that name nothing."""

import pytest
import torch

from mask_former.d2.errors import InputError
from mask_former.d2.run.freezing import freeze
from mask_former.d2.trainer import Trainer
from tests.d2.run.runs import assert_equal, interrupted_after, run, saved
from tests.small_runs import tiny_cfg

OPTIONS = {
    "SOLVER.FREEZE": "['backbone', 'sem_seg_head.pixel_decoder.layer_1']",
    "DATASETS.TEST": "()",
}


@pytest.mark.usefixtures("images")
def test_frozen_parts_stay(tmp_path):
    cfg = tiny_cfg(tmp_path, OPTIONS)
    before = {k: v.clone() for k, v in Trainer(cfg).model.state_dict().items()}
    interrupted_after(cfg, 1)
    after = run(cfg, resume=True).model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {"sem_seg_head.predictor.query_embed.weight"} <= changed
    assert not {
        key for key in changed if key.startswith(("backbone", "sem_seg_head.pixel_decoder.layer_1"))
    }
    whole = tiny_cfg(tmp_path / "whole", OPTIONS)
    run(whole)
    assert_equal(saved(tmp_path), saved(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("patterns", "fault"),
    [
        (["("], r"'\(', which is no regular expression"),
        (["backbones"], "'backbones', which matches the beginning of no .*; did you mean backbone"),
        (["xyz"], "they begin with backbone, sem_seg_head"),
        ([""], "leaves no parameter to train"),
    ],
)
def test_patterns_that_cannot_be_meant(tmp_path, patterns, fault):
    with pytest.raises(InputError, match=fault):
        freeze(Trainer.build_model(tiny_cfg(tmp_path)), patterns)
