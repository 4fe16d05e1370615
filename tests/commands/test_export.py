"""From a checkpoint to a file that a process without PyTorch runs, and what is refused."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mask_former.d2.build.model import build_model
from mask_former.d2.export.checking import Report
from mask_former.d2.export.graph import best
from mask_former.d2.predictor import load_predictor
from tests.d2.export.test_formats import needs_onnx
from tests.d2.tiny_models import HEAD, MASK_FORMER, make_cfg

ROOT = Path(__file__).parents[2]
RUN = """
import sys
for name in ("torch", "torchvision", "detectron2", "cv2"):
    sys.modules[name] = None
import numpy as np
import runtime
model = runtime.load(sys.argv[1], ["CPUExecutionProvider"], threads=1)
result = model(sys.argv[2])
result.overlay(sys.argv[2]).save(sys.argv[3])
ids = np.zeros_like(result.labels)
for segment in result.segments:
    ids[segment.mask] = segment.id
np.savez(sys.argv[4], ids=ids, names=[s.category for s in result.segments])
"""


@pytest.fixture
def weights(tmp_path):
    """A tiny panoptic model and its configuration."""
    cfg = make_cfg(
        {
            f"{MASK_FORMER}.TEST.PANOPTIC_ON": True,
            f"{MASK_FORMER}.VALID_MASK": True,
            f"{MASK_FORMER}.TRANSFORMER_IN_FEATURE": "res4",
            f"{MASK_FORMER}.DEC_LAYERS": 1,
            "DATASETS.TRAIN": ("shapes_panoptic_train",),
            "DATASETS.TEST": ("shapes_panoptic_val",),
            f"{HEAD}.NUM_CLASSES": 7,
            "INPUT.MIN_SIZE_TEST": 64,
        }
    )
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "m.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    return [str(tmp_path / "m.pth"), "--config-file", str(tmp_path / "config.yaml")]


def arguments(weights, *others):
    return [weights[0], *others, *weights[1:]]


@needs_onnx
def test_a_checkpoint_runs_without_pytorch(tool: ModuleType, weights, tmp_path: Path, capsys):
    onnx = tmp_path / "out" / "m.onnx"
    tool.main(arguments(weights, str(onnx), "--format", "onnx"))
    shown = capsys.readouterr().out
    assert "same label for 100.0000 % of the pixels" in shown
    assert f"wrote {onnx}" in shown
    assert [path.name for path in onnx.parent.iterdir()] == ["m.onnx"]
    pixels = tool.draw((70, 101))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "runtime.py").write_bytes((ROOT / "mask_former" / "runtime.py").read_bytes())
    files = [str(onnx), "a.png", "overlay.png", "found.npz"]
    subprocess.run([sys.executable, "-c", RUN, *files], cwd=tmp_path, check=True)
    predictor = load_predictor(weights[2], weights[0], ["MODEL.DEVICE", "cpu"])
    ids, infos = predictor(pixels[:, :, ::-1])["panoptic_seg"]
    with np.load(tmp_path / "found.npz") as found:
        assert (found["ids"] == ids.numpy()).mean() > 0.999
        names = predictor.metadata.stuff_classes
        assert list(found["names"]) == [names[info["category_id"]] for info in infos]
    assert Image.open(tmp_path / "overlay.png").size == (101, 70)


def test_a_model_that_gives_labels_is_compared_by_its_scores(tool: ModuleType, weights, capsys):
    """As load_model has it, whatever the configuration or --opts say."""
    test = f"{MASK_FORMER}.TEST"
    opts = [f"{test}.SEM_SEG_OUTPUT", "labels", f"{test}.PANOPTIC_ON", "False"]
    given = ["m.onnx", "--format", "onnx", "--task", "semantic", *weights[1:], "--opts", *opts]
    predictor, task = tool.load_model(tool.parse_args([weights[0], *given]))
    assert capsys.readouterr().out == ""
    picture = tool.draw((40, 60))

    def tensors(picture):
        scores = predictor(picture[:, :, ::-1])["sem_seg"]
        return [x.numpy() for x in best(scores[None])]

    model = SimpleNamespace(tensors=tensors)
    report = tool.compare(predictor, model, [picture], task)
    assert (report.difference, report.pixels) == (0.0, 1.0)


def test_tiles_are_left_out(tool: ModuleType, weights, capsys):
    """On both sides, as the file does not cut pictures."""
    opts = [f"{MASK_FORMER}.TEST.TILES", "[64, 8]"]
    given = ["m.onnx", "--format", "onnx", *weights[1:], "--opts", *opts]
    predictor, _ = tool.load_model(tool.parse_args([weights[0], *given]))
    assert "TEST.TILES is [64, 8], which a file does not do" in capsys.readouterr().out
    picture = tool.draw((40, 200))
    plain = load_predictor(weights[2], weights[0], ["MODEL.DEVICE", "cpu"])
    ids, expected = (side(picture)["panoptic_seg"][0] for side in (predictor, plain))
    assert torch.equal(ids, expected)


@needs_onnx
def test_a_file_that_differs_is_not_kept(tool: ModuleType, weights, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tool, "write", lambda *args: Path(args[-1]).touch())
    monkeypatch.setattr(tool, "load_exported", lambda *args: None)
    monkeypatch.setattr(tool, "compare", lambda *args: Report(0.5, 0.5, 0, 1))
    with pytest.raises(SystemExit, match=r"the exported model is not the model: 50\.000 %"):
        tool.main(arguments(weights, str(tmp_path / "out" / "m.onnx"), "--format", "onnx"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["m.onnx", "--format", "onnx", "--raw", "--task", "semantic"], "--raw gives logits"),
        (["m.onnx", "--format", "onnx", "--precision", "int8"], "--calibrate FOLDER"),
        (["m.onnx", "--format", "onnx", "--calibrate", "x"], "--calibrate FOLDER"),
        (
            ["m.xml", "--format", "openvino", "--precision", "int8", "--calibrate", "x"],
            "int8 is for --format onnx",
        ),
        (["m.pth", "--format", "torch"], r"ends in \.pt2"),
        (["m.onnx", "--format", "onnx", "--size", "3", "4", "--dynamic"], "not allowed with"),
        (["m.onnx", "--format", "onnx", "--size", "0", "4"], "'0' is not a whole number >= 1"),
    ],
)
def test_arguments_that_contradict_each_other(tool: ModuleType, given, named, capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(["w.pth", *given])
    assert named.replace("\\", "") in capsys.readouterr().err


@needs_onnx
def test_what_is_compared_on_must_be_there_before_the_export(tool, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "write", None)
    given = arguments(weights, str(tmp_path / "m.onnx"), "--format", "onnx")
    with pytest.raises(SystemExit, match="data set nonesuch is not registered"):
        tool.main([*given, "--evaluate", "nonesuch"])
    with pytest.raises(SystemExit, match="has no pictures"):
        tool.main([*given, "--precision", "int8", "--calibrate", str(tmp_path)])
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(SystemExit):
        tool.parse_args(["w.pth", str(tmp_path / "folder.onnx"), "--format", "onnx"])


def test_a_loss_of_points_is_refused(tool: ModuleType, capsys):
    tool.check_points({"PQ": [50.0, 49.2]}, "int8")
    assert "PQ: 50.00 in PyTorch, 49.20 exported" in capsys.readouterr().out
    with pytest.raises(tool.InputError, match=r"PQ falls from 50\.00 to 49\.20, by more than 0\.1"):
        tool.check_points({"PQ": [50.0, 49.2]}, "float32")


def test_a_folder_without_pictures_is_named(tool: ModuleType, tmp_path: Path):
    (tmp_path / "note.txt").touch()
    with pytest.raises(tool.InputError, match=r"has no pictures \(\.jpg"):
        tool.pictures_of(tmp_path)
    for name in ("b.PNG", "a.jpg"):
        (tmp_path / name).touch()
    assert [path.name for path in tool.pictures_of(tmp_path)] == ["a.jpg", "b.PNG"]
