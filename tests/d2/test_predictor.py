"""The README's lines that segment an image, run as they stand there."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mask_former.d2.build.model import build_model
from mask_former.d2.config import load_config
from mask_former.d2.errors import InputError
from mask_former.d2.predictor import load_predictor, predict_batched

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "configs" / "shapes" / "maskformer_panoptic_tiny.yaml")


@pytest.fixture
def weights(tmp_path):
    """A checkpoint of the tiny model, as training writes it."""
    torch.manual_seed(0)
    model = build_model(load_config(TINY, device="cpu"))
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


SIZES = [(60, 90), (33, 40), (64, 96), (60, 90), (50, 70), (40, 33), (64, 65), (60, 90)]
"""Height and width: three of the first; padded to multiples of 32, six as the first."""


def samples():
    """One a size, with a result of another size for every other."""
    random = np.random.RandomState(0)
    for i, (height, width) in enumerate(SIZES):
        image = torch.from_numpy(random.randint(0, 256, (3, height, width), np.uint8))
        yield {"image": image} | ({"height": 50, "width": 45} if i % 2 else {})


class Watched(torch.nn.Module):
    """The model, and the sizes of the batches that it has seen."""

    def __init__(self, model, size_divisibility):
        super().__init__()
        self.model, self.batches = model, []
        model.size_divisibility = self.size_divisibility = size_divisibility

    def forward(self, batch):
        self.batches.append([tuple(x["image"].shape[-2:]) for x in batch])
        return self.model(batch)


def assert_same(found, expected):
    """Scores within float noise; panoptic segments the same but for pixels that hang by a hair."""
    torch.testing.assert_close(found["sem_seg"], expected["sem_seg"], atol=1e-5, rtol=1e-4)
    (segments, infos), (other, other_infos) = found["panoptic_seg"], expected["panoptic_seg"]
    assert infos == other_infos
    assert (segments != other).float().mean() < 0.001


@pytest.mark.parametrize("divisor", [32, 0])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_each_image_of_a_batch_has_the_result_it_has_alone(weights, divisor, batch_size):
    model = Watched(weights[1], divisor)
    with torch.no_grad():
        expected = [model.model([sample])[0] for sample in samples()]
    results = list(predict_batched(model, samples(), batch_size, window=8))
    for found, alone in zip(results, expected, strict=True):
        assert_same(found, alone)
    assert sorted(size for batch in model.batches for size in batch) == sorted(SIZES)
    assert max(map(len, model.batches)) == {1: 1, 3: 3, 8: 6 if divisor else 3}[batch_size]


def test_images_are_read_a_window_at_a_time(weights):
    read = []

    def watched():
        for sample in samples():
            read.append(sample)
            yield sample

    results = predict_batched(weights[1], watched(), batch_size=2, window=3)
    assert not read
    next(results)
    assert len(read) == 3
    assert len(list(results)) == 7
    assert len(read) == 8


def test_no_image_has_no_result(weights):
    assert list(predict_batched(weights[1], [], batch_size=2)) == []


def test_a_batch_of_nothing_is_refused(weights):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        next(predict_batched(weights[1], samples(), 0))


def test_pictures_together_are_as_alone(weights):
    predictor = load_predictor(TINY, weights=weights[0], opts=["INPUT.MIN_SIZE_TEST", "60"])
    pictures = [picture(), picture()[:, :70], picture()[:, ::-1]]
    results = list(predictor.predict(pictures, batch_size=3))
    for image, found in zip(pictures, results, strict=True):
        assert_same(found, predictor(image))
        assert found["sem_seg"].shape[-2:] == image.shape[:2]


def test_the_padding_of_detectron2s_semantic_segmentor(weights):
    """Its backbone has the divisor; here none, so that sizes must be equal."""
    opts = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"]
    opts += ["MODEL.SEM_SEG_HEAD.NAME", "PerPixelBaselineHead"]
    opts += ["MODEL.MASK_FORMER.VALID_MASK", "False"]
    model = build_model(load_config(TINY, opts, device="cpu")).eval()
    with torch.no_grad():
        expected = [model([sample])[0]["sem_seg"] for sample in samples()]
    for found, alone in zip(predict_batched(model, samples(), 8), expected, strict=True):
        torch.testing.assert_close(found["sem_seg"], alone, atol=1e-4, rtol=1e-4)


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


def test_a_named_device_is_used_or_refused(weights):
    with pytest.raises(InputError, match=r"MODEL\.DEVICE is 'xla', which cannot be used here"):
        load_predictor(TINY, weights[0], ["MODEL.DEVICE", "xla"])


def test_grey_and_transparent_pictures(weights):
    predictor = load_predictor(TINY, weights=weights[0], opts=["INPUT.MIN_SIZE_TEST", "60"])
    image = picture()
    grey = image[:, :, 0]
    expected = predictor(np.stack([grey] * 3, axis=-1))["sem_seg"]
    assert torch.equal(predictor(grey)["sem_seg"], expected)
    assert torch.equal(predictor(grey[:, :, None])["sem_seg"], expected)
    bgra = np.concatenate([image, grey[:, :, None]], axis=-1)
    assert torch.equal(predictor(bgra)["sem_seg"], predictor(image)["sem_seg"])


def test_what_is_no_picture(weights, tmp_path):
    predictor = load_predictor(TINY, weights=weights[0])
    with pytest.raises(
        InputError, match=r"None, which cv2.imread gives for a file that is missing"
    ):
        predictor(cv2.imread(str(tmp_path / "missing.jpg")))
    cases = {
        r"uint16 \[60, 90, 3\]": picture().astype(np.uint16),
        r"float32 \[60, 90, 3\]": picture().astype(np.float32),
        r"uint8 \[3, 60, 90\]": picture().transpose(2, 0, 1),
        r"uint8 \[0, 90, 3\]": picture()[:0],
        r"str \[\]": "street.jpg",
    }
    for found, given in cases.items():
        with pytest.raises(InputError, match=rf"the picture is {found}; give uint8"):
            predictor(given)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("L", "INPUT.FORMAT L 1 channels"),
        ("YUV-BT.601", "INPUT.FORMAT is 'YUV-BT.601', which a predictor cannot make"),
        ("rgb", "INPUT.FORMAT is 'rgb'; give RGB, BGR"),
        ("XYZ", "INPUT.FORMAT is 'XYZ'; give RGB, BGR"),
    ],
)
def test_formats_that_no_model_of_three_channels_sees_are_refused(weights, name, expected):
    with pytest.raises(InputError, match=re.escape(expected)):
        load_predictor(TINY, weights[0], ["INPUT.FORMAT", name])
