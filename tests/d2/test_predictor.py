"""The README's lines that segment an image, run as they stand there."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mask_former.d2.build import build_model
from mask_former.d2.config import get_mask_former_cfg, merge_opts, merge_yaml
from mask_former.d2.errors import InputError
from mask_former.d2.predictor import load_predictor

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "configs" / "shapes" / "maskformer_panoptic_tiny.yaml")


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of the tiny model, as training writes it."""
    cfg = get_mask_former_cfg()
    merge_yaml(cfg, TINY)
    merge_opts(cfg, ["MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    model = build_model(cfg)
    path = tmp_path / "model_final.pth"
    torch.save({"model": model.state_dict()}, path)
    return str(path), model.eval()


def picture():
    return np.random.RandomState(0).randint(0, 256, (60, 90, 3), np.uint8)


def test_result_is_the_models_on_the_resized_picture(weights):
    path, model = weights
    predictor = load_predictor(TINY, weights=path, opts=["INPUT.MIN_SIZE_TEST", "60"])
    image = picture()
    result = predictor(image)
    rgb = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)
    with torch.no_grad():
        (expected,) = model([{"image": rgb, "height": 60, "width": 90}])
    torch.testing.assert_close(result["sem_seg"], expected["sem_seg"])
    assert torch.equal(result["panoptic_seg"][0], expected["panoptic_seg"][0])


def test_the_lines_of_the_readme(weights, tmp_path, monkeypatch):
    """Word for word, but for the configuration, whose full size no test needs."""
    (lines,) = re.findall(
        r"```python\n(import cv2\n.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    assert len(list(filter(None, lines.splitlines()))) == 5
    lines = lines.replace("configs/ade20k-150/maskformer_R50_bs16_160k.yaml", TINY)
    lines = lines.replace("model_final.pkl", weights[0])
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("street.jpg", picture())
    exec(lines, {})
    labels = cv2.imread("labels.png", cv2.IMREAD_UNCHANGED)
    assert labels.shape == (60, 90)
    assert labels.max() < 7


def test_missing_weights_are_named():
    with pytest.raises(InputError, match=r"no weights at gone\.pth"):
        load_predictor(TINY, weights="gone.pth")
