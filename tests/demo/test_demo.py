"""The demo on pictures and videos: what is painted, what is written, what is refused."""

import re
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from mask_former.d2.build import build_model
from mask_former.d2.config import get_mask_former_cfg, merge_opts, merge_yaml
from mask_former.d2.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ["--config-file", str(ROOT / "configs" / "shapes" / "maskformer_panoptic_tiny.yaml")]
PANOPTIC = ["MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "0.0"]
SEMANTIC = ["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False"]


def shapes_cfg(*opts: str) -> CfgNode:
    """The configuration of the data set shapes, for the CPU."""
    cfg = get_mask_former_cfg()
    merge_yaml(cfg, SHAPES[1])
    merge_opts(cfg, ["MODEL.DEVICE", "cpu", *opts])
    return cfg


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that load random weights of a model that always finds something, with low scores."""
    few = ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "3"]
    cfg = shapes_cfg(*few)
    torch.manual_seed(0)
    model = build_model(cfg)
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias[-1] = -10.0  # "no object"
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return [*few, "MODEL.WEIGHTS", str(path)]


def read(path: Path) -> np.ndarray:
    """[H, W, 3] RGB."""
    return np.asarray(Image.open(path).convert("RGB"))


def sentence(demo: ModuleType, argv: list[str]) -> str:
    """The one line with which the demo ends, and with it the exit code 1."""
    with pytest.raises(SystemExit) as ended:
        demo.main(argv)
    message = ended.value.code
    assert isinstance(message, str)
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


def usage_error(demo: ModuleType, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the parser says."""
    with pytest.raises(SystemExit, match="2"):
        demo.main(argv)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("opts", "threshold", "found"),
    [(PANOPTIC, "0", r"[1-9]\d* segments"), (SEMANTIC, "0", "finished")],
)
def test_paints_a_picture(
    demo: ModuleType,
    weights: list[str],
    pictures: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    opts: list[str],
    threshold: str,
    found: str,
) -> None:
    target = tmp_path / "drawn.png"
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(target)]
    demo.main([*argv, "--confidence-threshold", threshold, "--opts", *weights, *opts])
    before, after = read(pictures[0]).astype(int), read(target).astype(int)
    assert after.shape == before.shape
    # The overlay is much stronger than what a JPEG could lose.
    assert (np.abs(after - before).max(axis=-1) > 20).mean() > 0.3
    assert re.search(
        rf"{re.escape(str(pictures[0]))}: {found} in \d+\.\d\d s", capsys.readouterr().out
    )


@pytest.mark.parametrize("opts", [PANOPTIC, SEMANTIC])
def test_paints_nothing_at_threshold_1(
    demo: ModuleType, weights: list[str], pictures: list[Path], tmp_path: Path, opts: list[str]
) -> None:
    target = tmp_path / "drawn.png"
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(target)]
    demo.main([*argv, "--confidence-threshold", "1", "--opts", *weights, *opts])
    np.testing.assert_array_equal(read(target), read(pictures[0]))


def test_config_decides_without_threshold(
    demo: ModuleType, weights: list[str], pictures: list[Path], tmp_path: Path
) -> None:
    target = tmp_path / "drawn.png"
    argv = [
        *SHAPES,
        "--input",
        str(pictures[0]),
        "--output",
        str(target),
        "--opts",
        *weights,
        *PANOPTIC,
    ]
    key = "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD"
    demo.main([*argv, key, "1.0"])
    np.testing.assert_array_equal(read(target), read(pictures[0]))
    demo.main([*argv, key, "0.0"])
    assert (read(target) != read(pictures[0])).mean() > 0.3


def test_same_picture_has_the_same_colors(
    demo: ModuleType, weights: list[str], pictures: list[Path], tmp_path: Path
) -> None:
    targets = [tmp_path / "first.png", tmp_path / "second.png"]
    for target in targets:
        argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(target)]
        demo.main([*argv, "--confidence-threshold", "0", "--opts", *weights, *PANOPTIC])
    np.testing.assert_array_equal(read(targets[0]), read(targets[1]))


def test_writes_several_into_a_new_folder(
    demo: ModuleType, pictures: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "folder"
    demo.main([*SHAPES, "--input", *map(str, pictures), "--output", str(folder)])
    assert sorted(path.name for path in folder.iterdir()) == [path.name for path in pictures]


def test_pattern_with_home(
    demo: ModuleType, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(pictures[0].parent))
    assert demo.find_pictures(["~/*.jpg"]) == [str(path) for path in pictures]


def test_file_with_the_signs_of_a_pattern(demo: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a[1].jpg"
    path.touch()
    assert demo.find_pictures([str(path)]) == [str(path)]


def test_ade20k_picture(demo: ModuleType, datasets_root: Path, tmp_path: Path) -> None:
    folder = datasets_root / "ADEChallengeData2016" / "images" / "validation"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    picture = min(folder.glob("*.jpg"))
    small = ["--opts", "MODEL.WEIGHTS", "", "INPUT.MIN_SIZE_TEST", "128"]
    demo.main(["--input", str(picture), "--output", str(tmp_path), *small])
    before, after = read(picture), read(tmp_path / picture.name)
    assert after.shape == before.shape
    assert (np.abs(after.astype(int) - before).max(axis=-1) > 20).mean() > 0.5


def test_goes_on_with_the_cpu(
    demo: ModuleType,
    pictures: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    demo.main([*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path)])
    assert capsys.readouterr().out.count("going on with the CPU") == 1


def test_missing_picture(demo: ModuleType, pictures: list[Path]) -> None:
    argv = ["--input", str(pictures[0]), "/no/such.jpg", "--output", "folder"]
    assert "no picture /no/such.jpg" in sentence(demo, argv)


def test_folder_as_picture(demo: ModuleType, tmp_path: Path) -> None:
    assert "give files" in sentence(demo, ["--input", str(tmp_path), "--output", "folder"])


def test_pattern_that_matches_nothing(demo: ModuleType, tmp_path: Path) -> None:
    pattern = str(tmp_path / "*.jpg")
    assert f"nothing matches '{pattern}'" in sentence(demo, ["--input", pattern])


def test_broken_picture(demo: ModuleType, pictures: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(pictures[0].read_bytes()[:2000])
    argv = [*SHAPES, "--input", str(broken), "--output", str(tmp_path / "out")]
    assert f"image {broken} cannot be read" in sentence(demo, argv)


def test_missing_weights(demo: ModuleType, pictures: list[Path], tmp_path: Path) -> None:
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path)]
    assert "no weights at /no/such.pth" in sentence(
        demo, [*argv, "--opts", "MODEL.WEIGHTS", "/no/such.pth"]
    )


def test_unknown_key(demo: ModuleType, pictures: list[Path], tmp_path: Path) -> None:
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path)]
    assert "MODEL.WEIGHT;" in sentence(demo, [*argv, "--opts", "MODEL.WEIGHT", "x"])


def test_several_pictures_and_one_file(demo: ModuleType, pictures: list[Path]) -> None:
    argv = ["--input", *map(str, pictures), "--output", "one.png"]
    assert "--output one.png is one file" in sentence(demo, argv)


def test_output_over_the_input(demo: ModuleType, pictures: list[Path]) -> None:
    argv = ["--input", str(pictures[0]), "--output", str(pictures[0].parent)]
    assert "would write over the input" in sentence(demo, argv)


def test_two_pictures_of_one_name(demo: ModuleType, pictures: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / pictures[0].name
    twin.touch()
    argv = ["--input", str(pictures[0]), str(twin), "--output", str(tmp_path / "out")]
    assert "2 inputs would be written to" in sentence(demo, argv)


def test_folder_that_cannot_be_made(demo: ModuleType, pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    argv = ["--input", str(pictures[0]), "--output", str(tmp_path / "file" / "folder")]
    assert "cannot make the folder" in sentence(demo, argv)


def test_format_that_cannot_be_written(
    demo: ModuleType, pictures: list[Path], tmp_path: Path
) -> None:
    target = tmp_path / "drawn.nonsense"
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(target)]
    assert f"cannot write {target}" in sentence(demo, argv)


def test_no_display_and_no_output(
    demo: ModuleType, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert "--output" in sentence(demo, ["--input", str(pictures[0])])


@pytest.mark.skipif(
    re.search(r"GUI: +NONE", cv2.getBuildInformation()) is None, reason="OpenCV has windows"
)
def test_headless_opencv_and_no_output(
    demo: ModuleType, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    assert "--output" in sentence(demo, ["--input", str(pictures[0])])


def test_escape_ends_the_show(
    demo: ModuleType, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    def press_escape(image: np.ndarray, milliseconds: int) -> int:
        shown.append(image.shape)
        return demo.ESCAPE

    # A machine for tests has no windows.
    monkeypatch.setattr(demo, "require_window", lambda pictures: [None] * len(pictures))
    monkeypatch.setattr(demo, "show", press_escape)
    demo.main([*SHAPES, "--input", *map(str, pictures)])
    assert shown == [(128, 128, 3)]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--webcam --video-input --input is required"),
        (["--webcam", "--input", "a.jpg"], "--input: not allowed with argument --webcam"),
        (["--webcam", "--output", "a.mp4"], "leave out --output"),
        (["--input", "a", "--confidence-threshold", "1.5"], "'1.5' is not a number from 0 to 1"),
        (["--input", "a", "--confidence-threshold", "nan"], "'nan' is not a number from 0 to 1"),
        (["--input", "a", "--confidence-threshold", "x"], "'x' is not a number from 0 to 1"),
    ],
)
def test_usage_errors(
    demo: ModuleType, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert message in usage_error(demo, argv, capsys)


@pytest.mark.parametrize("opts", [PANOPTIC, SEMANTIC])
def test_paints_a_video(
    demo: ModuleType, weights: list[str], video: Path, tmp_path: Path, opts: list[str]
) -> None:
    folder = tmp_path / "out"
    argv = [*SHAPES, "--video-input", str(video), "--output", str(folder)]
    small = ["INPUT.MIN_SIZE_TEST", "32"]
    demo.main([*argv, "--confidence-threshold", "0", "--opts", *weights, *opts, *small])
    [target] = folder.iterdir()
    assert target.name == "clip" + demo.video_format()[1]
    capture = cv2.VideoCapture(str(target))
    assert capture.get(cv2.CAP_PROP_FPS) == 5
    frames = [capture.read()[1] for _ in range(4)]
    assert frames[3] is None
    for frame, gray in zip(frames[:3], (40, 90, 140), strict=True):
        assert frame.shape == (32, 48, 3)
        assert np.abs(frame.astype(int) - gray).max() > 20


def test_existing_video(demo: ModuleType, video: Path, tmp_path: Path) -> None:
    target = tmp_path / "drawn.mp4"
    target.touch()
    argv = ["--video-input", str(video), "--output", str(target)]
    assert f"{target} exists" in sentence(demo, argv)


def test_missing_video(demo: ModuleType) -> None:
    argv = ["--video-input", "/no/such.mp4", "--output", "a.mp4"]
    assert "/no/such.mp4 cannot be opened" in sentence(demo, argv)


def test_video_format_that_cannot_be_written(demo: ModuleType, video: Path, tmp_path: Path) -> None:
    target = tmp_path / "drawn.nonsense"
    argv = [*SHAPES, "--video-input", str(video), "--output", str(target)]
    assert f"OpenCV cannot write {target}" in sentence(demo, argv)


def test_video_without_window(
    demo: ModuleType, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert "--output" in sentence(demo, ["--video-input", str(video)])


def test_label_map_leaves_out_low_scores(predictor: ModuleType) -> None:
    scores = torch.tensor([[[0.9, 0.2]], [[0.1, 0.4]], [[0.0, 0.3]]])
    assert predictor.label_map(scores, 0.0).tolist() == [[0, 1]]
    assert predictor.label_map(scores, 0.4).tolist() == [[0, 1]]  # at the threshold it is painted
    assert predictor.label_map(scores, 0.5).tolist() == [[0, 3]]


def test_classes_without_a_data_set(predictor: ModuleType) -> None:
    cfg = get_mask_former_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 80  # more than Detectron2 has colours
    cfg.DATASETS.TEST = ()
    metadata = predictor.class_metadata(cfg)
    assert metadata.stuff_classes[79] == metadata.thing_classes[79] == "class 79"
    assert len(metadata.stuff_colors) == len(metadata.thing_colors) == 80


def test_classes_of_the_data_set(predictor: ModuleType) -> None:
    cfg = get_mask_former_cfg()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 7
    cfg.DATASETS.TEST = ("shapes_panoptic_val",)
    known = MetadataCatalog.get("shapes_panoptic_val")
    metadata = predictor.class_metadata(cfg)
    assert metadata.stuff_classes == known.stuff_classes
    assert metadata.thing_colors == known.thing_colors
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 8
    with pytest.raises(InputError, match=r"has 7 classes.* is 8"):
        predictor.class_metadata(cfg)


def shapes_visualizer(predictor: ModuleType, height: int, width: int) -> object:
    """A visualizer of a grey picture."""
    metadata = MetadataCatalog.get("shapes_panoptic_val")
    return predictor.SteadyVisualizer(np.full((height, width, 3), 128, np.uint8), metadata)


@pytest.mark.parametrize("corner", [(0, 0), (199, 0), (0, 99), (199, 99)])
def test_labels_are_moved_inside(predictor: ModuleType, corner: tuple[int, int]) -> None:
    visualizer = shapes_visualizer(predictor, 100, 200)
    visualizer.draw_text("triangle", corner)
    drawn = (visualizer.output.get_image() != 128).any(axis=-1)
    central = shapes_visualizer(predictor, 100, 200)
    central.draw_text("triangle", (100, 50))
    whole = (central.output.get_image() != 128).any(axis=-1)
    for axis, expected in zip(drawn.nonzero(), whole.nonzero(), strict=True):
        assert abs(np.ptp(axis) - np.ptp(expected)) <= 2  # pixels, of the box around the label


def test_stuff_is_labelled_where_it_is_widest(predictor: ModuleType) -> None:
    mask = np.zeros((120, 300), np.uint8)
    mask[40:80] = 1
    mask[:, 220:] = 1  # the widest place is around x = 260, y = 60
    visualizer = shapes_visualizer(predictor, 120, 300)
    visualizer.draw_binary_mask(mask, [0.2, 0.4, 0.6], text="water", alpha=0.5)
    [label] = visualizer.output.ax.texts
    assert label.get_position()[0] == pytest.approx(260, abs=25)


def test_things_of_a_class_differ(predictor: ModuleType) -> None:
    visualizer = shapes_visualizer(predictor, 10, 10)
    color = [0.8, 0.3, 0.3]
    shades = [visualizer._jitter(color) for _ in range(6)]
    assert len(set(shades)) == 6
    assert visualizer._jitter([0.3, 0.8, 0.3]) == pytest.approx((0.3, 0.8, 0.3))


def test_draws_instances_beside_semantic_labels(predictor: ModuleType) -> None:
    """As a model of Detectron2 may give them."""
    drawer = predictor.VisualizationDemo(shapes_cfg(), semantic_threshold=0.5)
    masks = torch.zeros(1, 200, 300, dtype=torch.bool)
    masks[0, 10:110, 10:110] = True
    instances = Instances((200, 300), pred_masks=masks, pred_classes=torch.tensor([3]))
    instances.scores = torch.tensor([0.9])
    sem_seg = torch.zeros(7, 200, 300)
    sem_seg[1, :, 200:] = 1.0
    image = np.full((200, 300, 3), 128, np.uint8)
    drawing = drawer.draw(image, {"sem_seg": sem_seg, "instances": instances}).get_image()
    painted = (drawing != 128).any(axis=-1)
    assert painted[15:105, 15:105].all()
    assert painted[:, 205:].all()
    assert not painted[115:, :195].any()
    assert not painted[:, 115:195].any()
