"""The 30 published models in ONNX, with random weights: ``-rP`` shows a row of a table each."""

import json
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from mask_former.d2.build.model import build_model
from mask_former.d2.config import load_config
from mask_former.d2.export.checking import agreement, found_in
from mask_former.d2.export.formats import Request, load_exported, write
from mask_former.d2.export.graph import ExportedModel, default_task
from mask_former.d2.fuse_norms import optimize_for_inference
from mask_former.runtime import Information
from tests.d2.export.test_formats import needs_onnx

CONFIGS = Path(__file__).parents[3] / "configs"
ZOO = json.loads((files("mask_former.d2.weights") / "zoo.json").read_text(encoding="utf-8"))
PUBLISHED = [entry["config"] for entry in ZOO.values()]
FULL = ("ade20k-150/maskformer_R50_bs16_160k", "ade20k-150/swin/maskformer_swin_tiny_bs16_160k")
"""Run on a picture of the size that their configuration has pictures resized to."""
SIZE = (91, 120)
"""Height and width of the picture of the others."""
# Random weights are sure of nothing: all queries are to compete, and to keep what they win.
OPTIONS = ["MODEL.DEVICE", "cpu"]
for threshold in ("OBJECT_MASK_THRESHOLD", "OVERLAP_THRESHOLD"):
    OPTIONS += [f"MODEL.MASK_FORMER.TEST.{threshold}", 0.0]


@pytest.mark.nightly
@needs_onnx
@pytest.mark.parametrize("name", PUBLISHED)
@torch.no_grad()
def test_a_published_model(name, tmp_path):
    cfg = load_config(str(CONFIGS / f"{name}.yaml"), OPTIONS)
    torch.manual_seed(0)
    task = default_task(cfg)
    graph = ExportedModel(optimize_for_inference(build_model(cfg)), task).eval()
    things = sorted(graph.model.inference.thing_ids) if task == "panoptic" else []
    info = Information(task, [], [], things, cfg.INPUT.FORMAT, None, 0, 0)
    # Tracing a Swin transformer for any size takes minutes.
    size = SIZE if "swin" in name and name not in FULL else None
    path, start = tmp_path / "m.onnx", time.process_time()
    write(graph, info, Request("onnx", size), path)
    seconds, mib = time.process_time() - start, path.stat().st_size / 2**20
    height, width = (512, 683) if name in FULL else SIZE
    image = np.random.RandomState(0).randint(0, 256, (1, 3, height, width), np.uint8)
    feed = {"image": image, "height": np.array(101), "width": np.array(133)}
    eager = [x.numpy() for x in graph(torch.from_numpy(image), 101, 133)]
    exported = load_exported(path, "onnx", threads=1).run(feed)
    report = agreement(found_in(eager, task), found_in(exported, task))
    row = [name, task, "91 x 120" if size else "any", f"{report.difference:.1e}"]
    row += [f"{100 * report.pixels:.3f} %", f"{report.matched} of {report.regions}"]
    print(f"| {' | '.join(row)} | {seconds:.0f} | {mib:.0f} |")
    report.check(task, "float32")
    assert report.matched == report.regions
    assert (report.regions > 0) == (task == "panoptic")
