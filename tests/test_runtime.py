"""The file that runs exported models where there is no PyTorch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image

from mask_former import runtime
from mask_former.runtime import VOID, Information, Model

ROOT = Path(__file__).resolve().parent.parent
INFO = Information(
    "panoptic", ["sky", "car"], [[0, 0, 255], [255, 0, 0]], [1], "RGB", None, 64, 100
)
BLOCKED = "import sys\nfor name in ('torch', 'torchvision', 'detectron2', 'cv2'):\n"
BLOCKED += "    sys.modules[name] = None\n"


def picture(height=40, width=60):
    return np.random.RandomState(0).randint(0, 256, (height, width, 3), np.uint8)


def model(info, *tensors):
    return Model(lambda feed: [np.asarray(tensor)[None] for tensor in tensors], info)


@pytest.mark.parametrize("limits", [(64, 100), (33, 1000), (800, 1333), (0, 10), (1, 1)])
@pytest.mark.parametrize("size", [(40, 60), (60, 40), (50, 50), (1, 300), (97, 131), (427, 640)])
def test_sizes_are_detectron2s(size, limits):
    if limits[0]:
        height, width = ResizeShortestEdge.get_output_shape(*size, *limits)
        expected = max(1, height), max(1, width)
    else:
        expected = size
    assert runtime.shortest_edge(size, *limits) == expected


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_pictures_are_prepared_as_by_detectron2(channels):
    image = picture()
    found = model(INFO._replace(channels=channels)).prepare(runtime.read_picture(image))
    resized = ResizeShortestEdge([64, 64], 100).get_transform(image).apply_image(image)
    resized = resized[:, :, ::-1] if channels == "BGR" else resized
    assert np.array_equal(found, resized.transpose(2, 0, 1))


def test_one_size_for_all():
    feed = model(INFO._replace(size=[32, 48])).feed(picture())
    assert feed["image"].shape == (1, 3, 32, 48)
    assert (int(feed["height"]), int(feed["width"])) == (40, 60)


def test_panoptic_segments():
    ids = np.zeros((4, 6), np.int32)
    ids[:2], ids[2:, :3] = 1, 2
    result = model(INFO, ids, [0, 1, -1], [0.9, 0.8, 0.0], [12, 6, 0])(picture(4, 6))
    assert [s[:6] for s in result.segments] == [
        (1, 0, "sky", False, 0.9, 12),
        (2, 1, "car", True, 0.8, 6),
    ]
    assert result.labels.tolist() == [[0] * 6] * 2 + [[1] * 3 + [VOID] * 3] * 2


def test_the_best_instance_is_on_top():
    masks = np.zeros((3, 4, 6), bool)
    masks[0, :, :2], masks[1, :, :4] = True, True
    info = INFO._replace(task="instance", thing_ids=[0, 1])
    result = model(info, masks, [1, 0, -1], [0.9, 0.5, 0], [8, 16, 0])(picture(4, 6))
    assert [s.category for s in result.segments] == ["car", "sky"]
    assert result.labels[0].tolist() == [1, 1, 0, 0, VOID, VOID]


def test_semantic_classes_are_segments():
    labels = np.array([[0, 0, 1], [0, 1, 1]], np.int32)
    scores = np.array([[1, 1, 0.5], [0.4, 0.5, 0.5]], np.float32)
    result = model(INFO._replace(task="semantic"), labels, scores)(picture(2, 3))
    assert [(s.category, s.area) for s in result.segments] == [("sky", 3), ("car", 3)]
    assert result.segments[0].score == pytest.approx(0.8)


def test_overlay_paints_segments_alone():
    ids = np.zeros((40, 60), np.int32)
    ids[:, :30] = 1
    image = picture()
    result = model(INFO, ids, [1, -1], [0.9, 0.0], [1200, 0])(image)
    drawn = np.asarray(result.overlay(image)).astype(int)
    assert drawn.shape == image.shape
    assert np.array_equal(drawn[:, 45:], image[:, 45:])
    assert (drawn[5, :28, 0] >= image[5, :28, 0]).all()  # redder


def test_raw_logits_are_no_result():
    with pytest.raises(ValueError, match=r"exported with --raw .* call tensors\(\)"):
        model(INFO._replace(task="raw"))(picture())


def test_information_survives_a_file():
    assert Information.read(INFO.write()) == INFO


def test_files_are_turned_as_they_say(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
    assert runtime.read_picture(tmp_path / "a.png").size == (40, 60)


def test_nothing_heavy_is_imported():
    code = f"{BLOCKED}import mask_former.runtime\nprint(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "scipy" not in done.stdout


def test_a_strange_file_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy")
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    content = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9
    )
    onnx.save(content, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"no metadata 'mask_former': it was not exported"):
        runtime.load(tmp_path / "m.onnx", ["CPUExecutionProvider"])


def test_a_file_that_is_none_is_one_sentence(tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is an extra")
    text = tmp_path / "model.onnx"
    for content in (None, "no model"):
        if content:
            text.write_text(content)
        with pytest.raises(SystemExit, match=r"error: .*model\.onnx cannot be loaded .* name what"):
            runtime.main([str(text), "picture.jpg"])
