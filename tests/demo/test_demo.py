"""The demo on pictures and videos: what is painted, what is written, what is refused."""

import json
import re
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from PIL import Image

from mask_former.d2.build import build_model
from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.config_merging import merge_opts, merge_yaml
from mask_former.d2.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ["--config-file", str(ROOT / "configs" / "shapes" / "maskformer_panoptic_tiny.yaml")]
PANOPTIC = ["MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "0.0"]
SEMANTIC = ["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False"]
INSTANCE = [*SEMANTIC, "MODEL.MASK_FORMER.TEST.SEMANTIC_ON", "False"]
INSTANCE += ["MODEL.MASK_FORMER.TEST.INSTANCE_ON", "True"]


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
    [
        (PANOPTIC, "0", r"[1-9]\d* segments"),
        (SEMANTIC, "0", r"[1-9]\d* classes"),
        (INSTANCE, "0", r"[1-9]\d* instances"),
    ],
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


@pytest.mark.parametrize("opts", [PANOPTIC, SEMANTIC, INSTANCE])
def test_paints_nothing_at_threshold_1(
    demo: ModuleType, weights: list[str], pictures: list[Path], tmp_path: Path, opts: list[str]
) -> None:
    target = tmp_path / "drawn.png"
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(target)]
    demo.main([*argv, "--confidence-threshold", "1", "--opts", *weights, *opts])
    np.testing.assert_array_equal(read(target), read(pictures[0]))


def test_threshold_of_labels(demo: ModuleType, pictures: list[Path], tmp_path: Path) -> None:
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path / "drawn.png")]
    labels = ["MODEL.MASK_FORMER.TEST.SEM_SEG_OUTPUT", "labels"]
    message = sentence(demo, [*argv, "--confidence-threshold", "0.5", "--opts", *SEMANTIC, *labels])
    assert "--confidence-threshold" in message
    assert "SEM_SEG_OUTPUT" in message


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


EVERYTHING = ["--save", "overlay", "color", "label", "json", "rle"]


def test_saves_beside_the_named_file(
    demo: ModuleType, weights: list[str], pictures: list[Path], tmp_path: Path
) -> None:
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path / "a.b.jpg")]
    demo.main([*argv, *EVERYTHING, "--confidence-threshold", "0", "--opts", *weights, *PANOPTIC])
    names = ["a.b.color.png", "a.b.jpg", "a.b.json", "a.b.label.png", "a.b.rle.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize(
    ("opts", "kind"),
    [(PANOPTIC, "segments_info"), (SEMANTIC, "classes"), (INSTANCE, "instances")],
)
@pytest.mark.parametrize("threshold", ["0", "1"])
def test_saves_what_was_found(
    demo: ModuleType,
    weights: list[str],
    pictures: list[Path],
    tmp_path: Path,
    opts: list[str],
    kind: str,
    threshold: str,
) -> None:
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path), "--save", "json"]
    demo.main([*argv, "--confidence-threshold", threshold, "--opts", *weights, *opts])
    [path] = tmp_path.iterdir()  # and no overlay
    assert path.name == pictures[0].stem + ".json"
    table = json.loads(path.read_text())
    assert list(table) == ["height", "width", kind]
    assert (table["height"], table["width"]) == (128, 128)
    assert bool(table[kind]) == (threshold == "0")


def test_pictures_of_one_stem(demo: ModuleType, pictures: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / f"{pictures[0].stem}.png"
    twin.touch()
    argv = ["--input", str(pictures[0]), str(twin), "--output", str(tmp_path / "out")]
    message = sentence(demo, [*argv, "--save", "json"])
    assert f"2 results would be written to {tmp_path / 'out' / pictures[0].stem}.json" in message


def test_unsure_instances_are_left_out_unasked(
    demo: ModuleType, weights: list[str], pictures: list[Path], tmp_path: Path
) -> None:
    argv = [*SHAPES, "--input", str(pictures[0]), "--output", str(tmp_path), "--save", "json"]

    def scores(*threshold: str) -> list[float]:
        demo.main([*argv, *threshold, "--opts", *weights, *INSTANCE])
        table = json.loads((tmp_path / f"{pictures[0].stem}.json").read_text())
        return [instance["score"] for instance in table["instances"]]

    everything = scores("--confidence-threshold", "0")
    assert scores() == [score for score in everything if score >= demo.INSTANCE_SCORE]
    middle = sorted(everything)[len(everything) // 2]
    some = scores("--confidence-threshold", str(middle))
    assert some == [score for score in everything if score >= middle]
    assert 0 < len(some) < len(everything)


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
    assert "2 results would be written to" in sentence(demo, argv)


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
        (["--webcam", "--save", "json"], "--save json is for pictures"),
        (
            ["--video-input", "a.mp4", "--output", "b", "--save", "overlay", "rle"],
            "--save rle is for pictures; of a video there is only the overlay",
        ),
        (["--input", "a.jpg", "--save", "label"], "--save label writes a file; name it"),
        (["--input", "a.jpg", "--save", "labels"], "invalid choice: 'labels'"),
        (["--input", "a", "--confidence-threshold", "1.5"], "'1.5' is not a number from 0 to 1"),
        (["--input", "a", "--confidence-threshold", "nan"], "'nan' is not a number from 0 to 1"),
        (["--input", "a", "--confidence-threshold", "x"], "'x' is not a number from 0 to 1"),
    ],
)
def test_usage_errors(
    demo: ModuleType, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert message in usage_error(demo, argv, capsys)


@pytest.mark.parametrize("fast", [["--fast"], []])
@pytest.mark.parametrize("opts", [PANOPTIC, SEMANTIC, INSTANCE])
def test_paints_a_video(
    demo: ModuleType,
    video_script: ModuleType,
    weights: list[str],
    video: Path,
    tmp_path: Path,
    opts: list[str],
    fast: list[str],
) -> None:
    folder = tmp_path / "out"
    argv = [*SHAPES, "--video-input", str(video), "--output", str(folder), *fast]
    small = ["INPUT.MIN_SIZE_TEST", "32"]
    demo.main([*argv, "--confidence-threshold", "0", "--opts", *weights, *opts, *small])
    [target] = folder.iterdir()
    assert target.name == "clip" + video_script.video_format()[1]
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
