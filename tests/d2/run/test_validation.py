"""The losses on the validation set: those of the model, and no trace in the run."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import get_detection_dataset_dicts

from mask_former.d2.run.randomness import reseeded
from mask_former.d2.run.validation import validation_losses
from mask_former.d2.trainer import Trainer
from tests.d2.run.runs import assert_equal, run, saved
from tests.small_runs import tiny_cfg

SIZE = {"INPUT.MIN_SIZE_TRAIN": "(64,)", "INPUT.CROP.SIZE": "(64, 64)"}
BASELINE = {
    "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
    "MODEL.SEM_SEG_HEAD.NAME": "PerPixelBaselineHead",
    "MODEL.MASK_FORMER.VALID_MASK": False,
}


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("options", [{}, BASELINE], ids=["masks", "per-pixel"])
def test_means_over_pictures(tmp_path, options):
    cfg = tiny_cfg(tmp_path, {**SIZE, **options})
    model, mapper = Trainer.build_model(cfg).train(), Trainer.build_train_mapper(cfg)
    samples = get_detection_dataset_dicts(cfg.DATASETS.TEST, filter_empty=False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = validation_losses(model, samples, mapper)
    assert losses == validation_losses(model, samples, mapper)
    assert_equal(dict(model.state_dict()), before)
    assert all(module.training for module in model.modules())
    assert losses["loss"] == pytest.approx(sum(losses.values()) - losses["loss"])
    alone = [validation_losses(model, [sample], mapper)["loss"] for sample in samples[:1]]
    assert losses["loss"] != alone[0]
    model.eval()
    model.training = model.sem_seg_head.training = True
    with torch.no_grad(), reseeded(0, 0, 0):
        first = mapper(samples[0])
        assert sum(model([first]).values()).item() == pytest.approx(alone[0], rel=1e-5)


@pytest.mark.usefixtures("images")
def test_a_run_with_it_is_the_run_without(tmp_path):
    options = {**SIZE, "TEST.EVAL_PERIOD": 1, "DATALOADER.NUM_WORKERS": 0}
    run(tiny_cfg(tmp_path / "without", options))
    trainer = run(tiny_cfg(tmp_path / "with", {**options, "TEST.LOSS": True}))
    assert {"sem_seg", "validation"} == set(trainer._last_eval_results)
    lines = Path(trainer.cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
    assert any("validation/loss_dice" in json.loads(line) for line in lines)
    assert_equal(saved(tmp_path / "with")["model"], saved(tmp_path / "without")["model"])
