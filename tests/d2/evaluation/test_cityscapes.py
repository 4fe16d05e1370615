"""The evaluators of Cityscapes in processes that share no folder, and without an image."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from mask_former.d2.config import get_mask_former_cfg
from mask_former.d2.errors import InputError
from mask_former.d2.evaluation.choice import build_evaluator, choose_evaluators
from mask_former.d2.evaluation.cityscapes import (
    SharedCityscapesInstanceEvaluator,
    SharedCityscapesSemSegEvaluator,
)

ROOT = Path(__file__).parents[3]


CITYSCAPES = """
import sys
from pathlib import Path
import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from PIL import Image
from mask_former.d2.evaluation.cityscapes import (
    SharedCityscapesInstanceEvaluator,
    SharedCityscapesSemSegEvaluator,
)

folder, rank, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
if count > 1:
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/rendezvous", rank=rank, world_size=count
    )
names = ["road", "sidewalk", "car"]
MetadataCatalog.get("mini").set(thing_classes=names, gt_dir=str(folder / "gt"))
evaluators = [SharedCityscapesSemSegEvaluator("mini"), SharedCityscapesInstanceEvaluator("mini")]
for evaluator in evaluators:
    evaluator.reset()
for image in (1, 2):
    if image % count != rank:
        continue
    stem = f"frankfurt_000000_00000{image}"
    ids = np.asarray(Image.open(folder / "gt" / "frankfurt" / f"{stem}_gtFine_instanceIds.png"))
    labels = torch.zeros(19, 40, 60)
    labels[13] = torch.from_numpy(ids >= 1000)  # car
    labels[0] = torch.from_numpy(ids == 7)  # road
    if image == 2:  # the road of the right half is called sidewalk
        labels[1, :, 30:] = labels[0, :, 30:]
        labels[0, :, 30:] = 0
    cars = Instances((40, 60), pred_masks=torch.from_numpy(ids == 26001)[None])
    cars.pred_classes, cars.scores = torch.tensor([2]), torch.ones(1)
    sample = {"file_name": f"{stem}_leftImg8bit.png"}
    for evaluator in evaluators:
        semantic = labels if image == 1 else labels.argmax(0)  # SEM_SEG_OUTPUT "labels"
        evaluator.process([sample], [{"sem_seg": semantic, "instances": cars}])
for evaluator in evaluators:
    result = evaluator.evaluate()
    if result is not None:
        print(rank, {k: round(v, 4) for part in result.values() for k, v in part.items()})
    assert not Path(evaluator._temp_dir).exists()
"""


def write_cityscapes(folder: Path) -> None:
    """Two frames of road with a car each, in the format of the data set's ground truth."""
    (folder / "gt" / "frankfurt").mkdir(parents=True)
    ids = np.full((40, 60), 7, np.uint16)
    ids[:20, :20] = 26001
    for image in (1, 2):
        stem = folder / "gt" / "frankfurt" / f"frankfurt_000000_00000{image}_gtFine"
        Image.fromarray(ids).save(f"{stem}_instanceIds.png")
        labels = np.where(ids == 26001, 26, ids).astype(np.uint8)
        Image.fromarray(labels).save(f"{stem}_labelIds.png")


@pytest.mark.parametrize("count", [1, 2])
def test_cityscapes_on_several_machines(tmp_path, count):
    """Processes that share no temporary folder, as on machines of their own."""
    pytest.importorskip("cityscapesscripts")
    write_cityscapes(tmp_path)
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        with pytest.raises(InputError, match=r"2\.3 fails with NumPy 2"):
            build_evaluator(get_mask_former_cfg(), "cityscapes_fine_sem_seg_val", str(tmp_path))
        return
    processes = []
    for rank in range(count):
        (tmp_path / f"tmp{rank}").mkdir()
        command = [sys.executable, "-W", "ignore", "-c", CITYSCAPES, str(tmp_path), str(rank)]
        environment = {"TMPDIR": str(tmp_path / f"tmp{rank}"), "PYTHONPATH": str(ROOT)}
        environment = {**os.environ, **environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(
            # Here, because cityscapesscripts leaves a file in the working directory.
            subprocess.Popen([*command, str(count)], cwd=tmp_path, env=environment, **pipes)
        )
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, outputs
    semantic, instance = [line for line in outputs[0][0].splitlines() if line.startswith("0 {")]
    # Of the 4000 pixels of road 1200 are missed, which are all of a wrong sidewalk; the car is
    # whole.
    assert f"'IoU': {round(100 * (2800 / 4000 + 0 + 1) / 3, 4)}" in semantic
    assert "'AP': 100.0, 'AP50': 100.0" in instance
    assert all("{" not in stdout for stdout, _ in outputs[1:])


def test_detectron2_of_its_authors_alone_is_told_before_training(monkeypatch):
    """As in Detectron2's main branch of June 2026."""
    source = "import deeplearning.projects.cityscapesApi.cityscapesscripts.evaluation as evaluation"
    monkeypatch.setattr(inspect, "getsource", lambda _: source)
    with pytest.raises(InputError, match=r"by this Detectron2 imports `deeplearning`, a module"):
        choose_evaluators(get_mask_former_cfg(), "cityscapes_fine_sem_seg_val")


@pytest.mark.parametrize(
    "kind", [SharedCityscapesSemSegEvaluator, SharedCityscapesInstanceEvaluator]
)
def test_cityscapes_without_an_image(kind, told):
    evaluator = kind("city_without_images")
    evaluator.reset()
    assert evaluator.evaluate() == {}
    assert told() == ["No image of city_without_images was predicted: no result"]
    MetadataCatalog.remove("city_without_images")


@pytest.mark.parametrize(
    "kind", [SharedCityscapesSemSegEvaluator, SharedCityscapesInstanceEvaluator]
)
def test_pictures_of_one_name(kind):
    evaluator = kind("cityscapes_fine_sem_seg_val")
    evaluator.reset()
    evaluator._pictures["0001"] = "a/0001.png"
    with pytest.raises(InputError, match=r"a/0001.png and b/0001.png have the same name"):
        evaluator.process([{"file_name": "b/0001.png"}], [{"sem_seg": torch.zeros(2, 1, 1)}])
