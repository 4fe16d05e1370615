"""What the mapper of evaluation returns, beside Detectron2's own."""

from pathlib import Path

import torch
from detectron2.data import DatasetMapper

from mask_former.d2.data.mappers import EvaluationMapper


def test_evaluation_sample_is_detectron2s_without_labels(cfg, semantic_sample):
    cfg.INPUT.MIN_SIZE_TEST = 60
    sample = {**semantic_sample, "annotations": [], "image_id": 3}
    theirs = DatasetMapper(cfg, is_train=False)(sample)
    del theirs["sem_seg"]
    Path(semantic_sample["sem_seg_file_name"]).unlink()

    ours = EvaluationMapper(cfg)(sample)

    assert torch.equal(ours.pop("image"), theirs.pop("image"))
    assert ours == theirs
