"""A picture after the network: the results are those of the model."""

import numpy as np
import pytest
import torch

from mask_former.d2.build.model import build_model
from mask_former.d2.config import load_config
from mask_former.d2.errors import InputError
from mask_former.d2.predictor import load_predictor
from mask_former.d2.visualization.inspection import inspect, passed_whole
from mask_former.d2.visualization.queries import Reason, Thresholds
from tests.small_runs import ROOT

SHAPES = str(ROOT / "configs" / "shapes" / "maskformer_panoptic_tiny.yaml")
TEST = "MODEL.MASK_FORMER.TEST"
SURE = [f"{TEST}.OBJECT_MASK_THRESHOLD", "0.1", f"{TEST}.OVERLAP_THRESHOLD", "0.3"]
INSTANCE = [f"{TEST}.INSTANCE_ON", "True"]
SEMANTIC = [f"{TEST}.PANOPTIC_ON", "False"]


@pytest.fixture(scope="module")
def picture():
    return np.random.RandomState(0).randint(0, 256, (60, 90, 3), np.uint8)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    """Builds one from random weights that always find something."""

    def build(*opts):
        path = tmp_path_factory.mktemp("weights") / "model.pth"
        torch.manual_seed(0)
        model = build_model(load_config(SHAPES, opts, device="cpu"))
        head = getattr(model.sem_seg_head, "predictor", None)
        if hasattr(head, "class_embed"):
            with torch.no_grad():
                head.class_embed.bias[-1] = -10.0  # "no object"
        torch.save({"model": model.state_dict()}, path)
        device = ["MODEL.DEVICE", "cpu"]
        return load_predictor(SHAPES, str(path), ["INPUT.MIN_SIZE_TEST", "60", *device, *opts])

    return build


def test_results_are_the_models(predictor, picture):
    of_all = predictor(*SURE, *INSTANCE)
    expected, inspection = of_all(picture), inspect(of_all, picture)
    explanation = inspection.explain(Thresholds(0.1, 0.3))
    ids, segments = expected["panoptic_seg"]
    assert torch.equal(explanation.ids, ids)
    assert explanation.segments == segments
    assert len(segments) > 0
    labels = inspection.semantic(Thresholds(0.1, 0.3))["sem_seg"]
    assert torch.equal(labels, expected["sem_seg"].argmax(dim=0))
    found, instances = inspection.instances(0.0)["instances"], expected["instances"]
    assert torch.equal(found.pred_masks, instances.pred_masks)
    assert torch.equal(found.scores, instances.scores)
    few = inspection.instances(float(instances.scores[2]))["instances"]
    assert len(few) == 3


@pytest.mark.parametrize("inference", ["marginal", "general"])
def test_semantic_labels_of_scores_that_are_resized(predictor, picture, inference):
    opts = [*SEMANTIC, *SURE, f"{TEST}.SEMANTIC_INFERENCE", inference]
    opts += ["INPUT.MIN_SIZE_TEST", "40", "MODEL.MASK_FORMER.VALID_MASK", "False"]
    of_semantic = predictor(*opts)
    labels = inspect(of_semantic, picture).semantic(Thresholds(0.1, 0.3))["sem_seg"]
    assert torch.equal(labels, of_semantic(picture)["sem_seg"].argmax(dim=0))
    assert labels.shape == (60, 90)


def test_tiles_are_told_to_be_of_no_account(predictor, picture):
    tiled = predictor(f"{TEST}.TILES", [32, 8])
    whole = inspect(tiled, picture)
    assert torch.equal(whole.masks.rows(0, 60), inspect(predictor(), picture).masks.rows(0, 60))
    assert passed_whole(tiled.model.inference).startswith("MODEL.MASK_FORMER.TEST.TILES is [32, 8]")
    assert passed_whole(predictor().model.inference) == ""


def test_mask_of_a_query(predictor, picture):
    inspection = inspect(predictor(*SURE), picture)
    for query in inspection.explain(Thresholds(0.1, 0.3)).queries[:4]:
        mask = inspection.mask(query.number)
        assert (mask.shape, mask.dtype) == ((60, 90), np.uint8)
        # 127 and 128 are either side of one half, but for what rounding takes.
        assert (mask > 128).sum() <= query.mask_area <= (mask >= 127).sum()
    assert Reason.KEPT in {q.reason for q in inspection.explain(Thresholds(0.0, 0.0)).queries}


def test_a_per_pixel_model_is_refused(predictor, picture):
    baseline = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor", *SEMANTIC]
    baseline += ["MODEL.SEM_SEG_HEAD.NAME", "PerPixelBaselineHead"]
    baseline += ["MODEL.MASK_FORMER.VALID_MASK", "False"]
    with pytest.raises(InputError, match="SemanticSegmentor, a model without queries"):
        inspect(predictor(*baseline), picture)
