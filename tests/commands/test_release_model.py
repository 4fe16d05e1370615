"""A made-up run is released: weights that stand alone, a card, and nothing of the machine."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from mask_former.d2.build.model import build_model
from mask_former.d2.checkpoint import MaskFormerCheckpointer
from mask_former.d2.config import load_config
from mask_former.d2.predictor import load_predictor
from mask_former.d2.weights.reading import RECORD_KEY, read_weights
from mask_former.d2.weights.record import ModelRecord, read_record

SHAPES = str(Path(__file__).parents[2] / "configs" / "shapes" / "maskformer_panoptic_tiny.yaml")
METRICS = [
    {"iteration": 1, "total_loss": 3.0, "sem_seg/mIoU": 1.0},
    {"iteration": 3, "total_loss": 2.0},
    {"iteration": 4, "sem_seg/mIoU": 50.126, "sem_seg/IoU-disc": 12.3, "panoptic_seg/PQ": 40.0},
    {"iteration": 4, "panoptic_seg/SQ": float("nan")},
]


@pytest.fixture
def run(tmp_path):
    """A run of alice's on her own machine."""
    folder = tmp_path / "alice" / "run"
    folder.mkdir(parents=True)
    cfg = load_config(SHAPES, device="cpu")
    cfg.OUTPUT_DIR = "/home/alice"
    cfg.MODEL.WEIGHTS = "alice@host.example:/data/alice/model_final_d8dbeb.pkl"
    cfg.MODEL.IMAGE_MODEL.WEIGHTS = "C:\\Users\\alice\\timm.pth"
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = ("~alice",)
    cfg.TEST.BEST_METRIC, cfg.SOLVER.FREEZE = "sem_seg/mIoU", [r"backbone\.stem", "a/b"]
    parts = {"record": ModelRecord.of(cfg), "trainer": torch.nn.Linear(1, 1)}
    model = build_model(cfg)
    MaskFormerCheckpointer(model, str(folder), **parts).save("model_final", iteration=3)
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, METRICS)))
    return folder


@pytest.fixture
def released(tool, run, tmp_path, capsys):
    output = tmp_path / "shapes-tiny"
    tool.main([str(run), str(output)])
    told = capsys.readouterr().out
    assert "model.safetensors (7.1 MB), config.yaml, README.md" in told
    assert "license: cc-by-nc-4.0; --license says another" in told
    return output


def test_weights_alone(run, released):
    original = torch.load(run / "model_final.pth")
    content = read_weights(str(released / "model.safetensors"))
    assert content.keys() == {"model", "matching_heuristics", RECORD_KEY}
    assert content["model"].keys() == original["model"].keys()
    assert all(torch.equal(v, original["model"][k]) for k, v in content["model"].items())
    record = read_record(str(released / "model.safetensors"))
    assert record.config == (released / "config.yaml").read_text()
    assert record._replace(config="") == ModelRecord.parse(original[RECORD_KEY], "")._replace(
        config=""
    )
    cfg = load_config(str(released / "config.yaml"))
    assert cfg.MODEL.WEIGHTS == "model_final_d8dbeb.pkl"
    assert cfg.DATASETS.TRAIN == ("shapes_panoptic_train",)
    assert cfg.TEST.BEST_METRIC == "sem_seg/mIoU"  # no path, nor is a pattern
    assert cfg.SOLVER.FREEZE == [r"backbone\.stem", "a/b"]
    predictor = load_predictor(str(released / "model.safetensors"))
    assert predictor.metadata.stuff_classes[3] == "disc"
    assert predictor.cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON


def test_nothing_of_the_machine(released):
    assert {path.name for path in released.iterdir()} == {
        "model.safetensors",
        "config.yaml",
        "README.md",
    }
    for path in released.iterdir():
        for private in (b"alice", b"host.example", b"/home", b"Users"):
            assert private not in path.read_bytes(), path
        assert path.stat().st_mode & 0o444 == 0o444


def test_the_card(released):
    _, front, text = (released / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(front)
    (index,) = metadata.pop("model-index")
    assert metadata == {
        "license": "cc-by-nc-4.0",
        "library_name": "mask_former",
        "pipeline_tag": "image-segmentation",
        "tags": ["mask_former", "detectron2", "semantic-segmentation", "panoptic-segmentation"],
        "datasets": ["shapes_panoptic_train"],
        "metrics": ["mean_iou", "panoptic_quality"],
    }
    (result,) = index["results"]
    assert index["name"] == "shapes-tiny"
    assert result["dataset"] == {"name": "shapes_panoptic_val", "type": "shapes_panoptic_val"}
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values == {"mean_iou": 50.13, "panoptic_quality": 40.0}
    assert "| 3 | disc | thing | #ce5448 | 12.3 |" in text
    assert "| 0 | sky | stuff | #96bee6 |  |" in text
    assert "| sem_seg/mIoU | 50.13 |" in text
    assert "SQ" not in text
    assert "with 4 iterations of 8 pictures" in text
    assert "mask_former train --config-file config.yaml" in text
    assert "`model_final_d8dbeb.pkl`, published under CC BY-NC 4.0: not commercially" in text


def test_a_checkpoint_that_was_not_evaluated(tool, run, tmp_path):
    (run / "metrics.json").unlink()
    checkpoint = run / "model_final.pth"
    tool.main([str(checkpoint), str(tmp_path / "other"), "--license", "mit"])
    text = (tmp_path / "other" / "README.md").read_text()
    assert "license: mit" in text
    assert "This checkpoint was not evaluated." in text
    assert "model-index" not in text


def test_a_torn_last_line_is_left_out(tool, run):
    path = run / "metrics.json"
    before = tool.read_metrics(path, 3, of_average=False)
    path.write_text(path.read_text() + '\n{"itera')
    assert tool.read_metrics(path, 3, of_average=False) == before
    assert before["sem_seg/mIoU"] == 50.126


def test_the_moving_average_is_released_with_its_results(tool, run, tmp_path):
    checkpoint = torch.load(run / "model_final.pth")
    average = {f"module.{name}": x + 1 for name, x in checkpoint["model"].items()}
    torch.save({**checkpoint, "ema": {**average, "n_averaged": torch.tensor(3)}}, run / "a.pth")
    lines = [*METRICS, {"iteration": 4, "sem_seg_EMA/mIoU": 61.2}]
    (run / "metrics.json").write_text("\n".join(map(json.dumps, lines)))

    tool.main([str(run / "a.pth"), str(tmp_path / "other"), "--license", "mit"])

    content = read_weights(str(tmp_path / "other" / "model.safetensors"))["model"]
    assert all(torch.equal(x, checkpoint["model"][name] + 1) for name, x in content.items())
    text = (tmp_path / "other" / "README.md").read_text()
    assert "| sem_seg/mIoU | 61.20 |" in text
    assert "50.13" not in text


def test_baselines_and_classes_without_names(tool):
    record = ModelRecord("", [], 255, "RGB", "1")
    config = {"MODEL": {"META_ARCHITECTURE": "SemanticSegmentor", "WEIGHTS": "R-50.pkl"}}
    config["DATASETS"] = {"TRAIN": ["a"]}
    release = tool.Release("x", {}, record, config, {}, None, "mit")
    assert tool.tasks(release) == ["semantic"]
    assert "no names" in tool.class_table(release)
    assert "Trained from `R-50.pkl`, which has terms of its own." in tool.licence_lines(release)


def test_records_without_the_newer_keys(tool):
    old = {"TEST": {"EVAL_PERIOD": 0}, "A": "b/c"}
    assert tool.without_private({**old, "SOLVER": {"FREEZE": ["b/c"]}}) == {
        **old,
        "SOLVER": {"FREEZE": ["b/c"]},
        "A": "c",
    }
    assert tool.without_private(old) == {**old, "A": "c"}


def test_refusals(tool, run, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"has no model_final\.pth; name the OUTPUT_DIR"):
        tool.main([str(tmp_path), str(tmp_path / "o")])
    with pytest.raises(SystemExit, match=r"is the run, whose config\.yaml would be replaced"):
        tool.main([str(run), str(run)])
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").touch()
    with pytest.raises(SystemExit, match=r"project has a README\.md of something else"):
        tool.main([str(run), str(tmp_path / "project")])
    old = tmp_path / "old.pth"
    torch.save({"model": {"a": torch.ones(1)}}, old)
    with pytest.raises(
        SystemExit, match=r"old\.pth does not carry its configuration; `mask_former train"
    ):
        tool.main([str(old), str(tmp_path / "o")])
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(SystemExit, match="needs safetensors; install it with `pip install safete"):
        tool.main([str(run), str(tmp_path / "o")])
