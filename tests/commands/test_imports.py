"""A model may be of parts that a user has registered: what builds one can import them."""

import importlib

import pytest
import torch

from mask_former.d2.weights.record import read_record
from tests.d2.prediction.conftest import draw, tiny_weights  # noqa: F401

BUILDERS = {
    "analyze_model": ["--config-file", "none.yaml", "--use-fixed-input-size"],
    "convert_transformers": ["to", "none.pth", "out"],
    "evaluate_pq_for_semantic_segmentation": ["--json-file", "none.json"],
    "export": ["none.pth", "out.onnx", "--format", "onnx"],
    "predict": ["none.pth", "photos", "out"],
    "query_report": ["none.pth", "--input", "photos"],
}
PART = """
from mask_former.d2.build.model import build_set_criterion
from mask_former.d2.build.registry import CRITERION_REGISTRY

@CRITERION_REGISTRY.register()
def mine(cfg, matcher):
    return build_set_criterion(cfg, matcher)
"""


@pytest.mark.parametrize("name", BUILDERS)
def test_what_is_named_is_imported_before_anything_is_read(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--import", str(tmp_path / "parts.py")]
    tail = ["--tasks", "parameter"] if name == "analyze_model" else []
    with pytest.raises(SystemExit, match=r"^error: --import: there is no file .*parts\.py"):
        importlib.import_module(f"mask_former.commands.{name}").main(
            [*BUILDERS[name], *flags, *tail]
        )


def test_a_model_of_own_parts(tiny_weights, tmp_path):  # noqa: F811
    """It predicts with them, and is released without them, as a release builds nothing."""
    (tmp_path / "parts.py").write_text(PART)
    content = torch.load(tiny_weights)
    record = content["mask_former"]
    record["config"] = record["config"].replace("CRITERION: SetCriterion", "CRITERION: mine")
    weights, photos = tmp_path / "model.pth", draw(tmp_path / "photos", 1)
    torch.save(content, weights)
    release = importlib.import_module("mask_former.commands.release_model")
    release.main([str(weights), str(tmp_path / "released")])
    released = str(tmp_path / "released" / "model.safetensors")
    assert "CRITERION: mine" in read_record(released).config
    command = [released, str(photos), str(tmp_path / "out"), "--workers", "1"]
    predict = importlib.import_module("mask_former.commands.predict")
    with pytest.raises(SystemExit, match=r"nobody has registered 'mine'"):
        predict.main(command)
    predict.main([*command, "--import", str(tmp_path / "parts.py")])
    assert (tmp_path / "out" / "label" / "000.png").is_file()
