"""Training on six made-up images: data sets, checkpoints, failures and resuming."""

import json
import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import HookBase
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask_former.d2.errors import InputError
from mask_former.d2.trainer import Trainer
from tests.small_runs import assert_accuracy, tiny_cfg


@pytest.fixture
def cfg(images: Path, tmp_path: Path) -> CfgNode:
    """CamVid's configuration with a tiny model."""
    return tiny_cfg(tmp_path)


@pytest.fixture
def log(caplog, monkeypatch) -> Iterator[pytest.LogCaptureFixture]:
    """What our loggers say; setting up a run's log stops them from passing it on."""
    monkeypatch.setattr(logging.getLogger("mask_former"), "propagate", True)
    caplog.set_level(logging.INFO, logger="mask_former")
    return caplog


class Failing(HookBase):
    """Raises before, after, or never in, an iteration."""

    def __init__(self, error: BaseException, *, before: int = -1, after: int = -1) -> None:
        self.error, self.before, self.after = error, before, after

    def before_step(self) -> None:
        if self.trainer.iter == self.before:
            raise self.error

    def after_step(self) -> None:
        if self.trainer.iter == self.after:
            raise self.error


def saved(cfg: CfgNode) -> dict:
    """The last checkpoint."""
    folder = Path(cfg.OUTPUT_DIR)
    return torch.load(folder / (folder / "last_checkpoint").read_text())


def resumed(cfg: CfgNode) -> Trainer:
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    return trainer


def evaluations(cfg: CfgNode) -> int:
    return len(list(Path(cfg.OUTPUT_DIR, "inference").glob("sem_seg_evaluation.pth")))


def test_trains_and_evaluates(cfg):
    trainer = Trainer(cfg)
    before = trainer.model.sem_seg_head.predictor.query_embed.weight.detach().clone()
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert not torch.equal(trainer.model.sem_seg_head.predictor.query_embed.weight, before)
    out = Path(cfg.OUTPUT_DIR)
    truth = (out.parent / "camvid/annotations/val").iterdir()
    assert_accuracy(trainer._last_eval_results["sem_seg"], out / "inference", truth)
    state = saved(cfg)["trainer"]
    assert state["iteration"] == 2
    # Detectron2 0.6 forgets the optimizer.
    steps = {entry["step"].item() for entry in state["_trainer"]["optimizer"]["state"].values()}
    assert steps == {3}


@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_misspelt_data_sets_are_told_before_the_model_is_built(cfg, monkeypatch, key):
    monkeypatch.setattr(Trainer, "build_model", lambda cfg: pytest.fail("too late"))
    cfg.DATASETS[key] = ("camvid_sem_seg_vall",)
    with pytest.raises(InputError, match=r"camvid_sem_seg_vall is not registered; did you mean"):
        Trainer(cfg)


def test_resumes_with_everything(cfg):
    trainer = Trainer(cfg)
    trainer.train()
    cfg.SOLVER.MAX_ITER = 5  # longer than before
    again = resumed(cfg)
    assert again.start_iter == 3
    assert again.scheduler.last_epoch == 3
    assert again.scheduler.max_iters == 5
    theirs, ours = trainer.optimizer.state_dict()["state"], again.optimizer.state_dict()["state"]
    assert all(torch.equal(theirs[i]["exp_avg"], ours[i]["exp_avg"]) for i in theirs)
    again.train()
    assert saved(cfg)["trainer"]["iteration"] == 4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision(cfg, dtype):
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = True, dtype
    trainer = Trainer(cfg)
    assert trainer.cfg.SOLVER.AMP.ENABLED
    trainer.train()
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trainer.model.parameters())
    scale = saved(cfg)["trainer"]["_trainer"].get("grad_scaler", {}).get("scale")
    assert (scale is None) == (dtype == "bfloat16")
    cfg.SOLVER.MAX_ITER = 4
    again = resumed(cfg)
    if scale is not None:
        assert again._trainer.grad_scaler.get_scale() == scale
    again.train()
    assert saved(cfg)["trainer"]["iteration"] == 3


def test_unknown_precision_is_told_before_the_model_is_built(cfg):
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = True, "half"
    with pytest.raises(InputError, match=r"SOLVER\.AMP\.DTYPE is 'half'"):
        Trainer(cfg)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_checkpoint_on_failure_in_an_iteration(cfg, error):
    trainer = Trainer(cfg)
    trainer.register_hooks([Failing(error(), before=1)])
    with pytest.raises(error) as caught:
        trainer.train()
    assert saved(cfg)["trainer"]["iteration"] == 0
    assert caught.value.__notes__[0] == "training ended in iteration 1; --resume goes on at 1:"
    again = resumed(cfg)
    assert again.start_iter == again.scheduler.last_epoch == 1
    weights = zip(trainer.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in weights)
    again.train()
    assert saved(cfg)["trainer"]["iteration"] == 2


def test_failure_after_an_iteration_keeps_it(cfg):
    trainer = Trainer(cfg)
    trainer.register_hooks([Failing(RuntimeError(), after=1)])
    with pytest.raises(RuntimeError):
        trainer.train()
    again = resumed(cfg)
    assert again.start_iter == again.scheduler.last_epoch == 2


def fail_before(trainer: Trainer, iteration: int) -> None:
    """Trains until an iteration, which raises."""
    trainer.register_hooks([Failing(RuntimeError(), before=iteration)])
    with pytest.raises(RuntimeError):
        trainer.train()


def test_failure_in_the_first_iteration(cfg):
    fail_before(Trainer(cfg), 0)
    assert resumed(cfg).start_iter == 0


def test_failure_in_the_last_iteration_is_not_evaluated(cfg):
    fail_before(Trainer(cfg), 2)
    assert evaluations(cfg) == 0
    assert resumed(cfg).start_iter == 2


def test_failure_of_a_resumed_run(cfg):
    Trainer(cfg).train()
    cfg.SOLVER.MAX_ITER = 5
    again = resumed(cfg)
    fail_before(again, 3)
    assert resumed(cfg).start_iter == 3


def test_success_leaves_no_checkpoint_of_a_failure(cfg):
    Trainer(cfg).train()
    assert [path.name for path in Path(cfg.OUTPUT_DIR).glob("*.pth")] == ["model_final.pth"]
    assert evaluations(cfg) == 1


def test_truncated_image_in_a_loader_worker(cfg, images):
    """In the second batch: the seed puts this picture behind the first two."""
    last = TrainingSampler(3, seed=cfg.SEED)._infinite_indices()
    picture = images / f"{list(islice(last, 3))[2]}.jpg"
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    cfg.DATALOADER.NUM_WORKERS = 1
    with pytest.raises(InputError) as caught:
        Trainer(cfg).train()
    sentence = InputError.sentence(caught.value)
    assert sentence.startswith(f"image {picture} cannot be read")
    assert "\n" not in sentence
    complete = saved(cfg)["trainer"]["iteration"]
    picture.write_bytes(whole)
    again = resumed(cfg)
    assert again.start_iter == complete + 1 == 1
    again.train()
    assert saved(cfg)["trainer"]["iteration"] == 2


@pytest.fixture
def weights_of_19_classes(cfg: CfgNode, tmp_path: Path) -> dict:
    """A state dict of the model with another class layer."""
    other = cfg.clone()
    other.MODEL.SEM_SEG_HEAD.NUM_CLASSES, other.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 19, 255
    return Trainer.build_model(other).state_dict()


def test_fine_tuning_on_other_classes(cfg, log, tmp_path, weights_of_19_classes):
    cfg.MODEL.WEIGHTS = str(tmp_path / "w.pth")
    torch.save({"model": weights_of_19_classes}, cfg.MODEL.WEIGHTS)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    assert "class layer, starts anew  3" in log.text
    key = "sem_seg_head.predictor.query_embed.weight"
    assert torch.equal(trainer.model.state_dict()[key], weights_of_19_classes[key])


def test_resuming_a_run_of_other_classes(cfg, weights_of_19_classes):
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir()
    torch.save({"model": weights_of_19_classes}, folder / "model_0000001.pth")
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    with pytest.raises(InputError, match=r"model_0000001\.pth has 19 classes"):
        resumed(cfg)


@pytest.mark.parametrize("build", [Trainer.build_train_loader, None])
def test_data_that_are_not_there(cfg, monkeypatch, build):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/nowhere")
    with pytest.raises(InputError, match="DETECTRON2_DATASETS is '/nowhere'"):
        build(cfg) if build else Trainer.build_test_loader(cfg, "camvid_sem_seg_val")


def test_data_of_other_classes(cfg):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 12
    with pytest.raises(InputError, match="camvid_sem_seg_train has 11 classes"):
        Trainer.build_train_loader(cfg)
    with pytest.raises(InputError, match="camvid_sem_seg_val has 11 classes"):
        Trainer.build_test_loader(cfg, "camvid_sem_seg_val")


def test_samples_for_training_and_for_evaluation(cfg):
    batch = next(iter(Trainer.build_train_loader(cfg)))
    assert [sample["image"].shape for sample in batch] == [(3, 32, 32)] * 2
    assert all(len(sample["instances"]) > 0 for sample in batch)
    (sample,) = next(iter(Trainer.build_test_loader(cfg, "camvid_sem_seg_val")))
    assert sample["image"].shape == (3, 32, 40)
    assert (sample["height"], sample["width"]) == (32, 40)


def test_unknown_mapper_is_detectron2s(cfg, log):
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_semantics"
    batch = next(iter(Trainer.build_train_loader(cfg)))
    assert "instances" not in batch[0]
    assert "'mask_former_semantics': taking Detectron2's mapper" in log.text
    assert "mask_former_panoptic" in log.text


def test_what_cannot_be_evaluated_is_told_before_training(cfg):
    options = cfg.MODEL.MASK_FORMER.TEST
    options.SEMANTIC_ON, options.INSTANCE_ON = False, True
    with pytest.raises(
        InputError, match=r"camvid_sem_seg_val is evaluated as sem_seg,.*SEMANTIC_ON"
    ):
        Trainer(cfg)


@pytest.fixture
def nobodys_set(cfg: CfgNode) -> Iterator[str]:
    """The pictures of the test set, under a name that no evaluator knows."""
    name, samples = "nobodys_set", DatasetCatalog.get("camvid_sem_seg_val")
    DatasetCatalog.register(name, lambda: samples)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_unknown_evaluators_do_not_keep_from_training(cfg, log, nobodys_set):
    cfg.DATASETS.TEST = (nobodys_set,)
    assert Trainer(cfg).max_iter == 3
    told = [message for message in log.messages if "will not be evaluated" in message]
    assert len(told) == 1
    assert told[0].startswith(f"data set {nobodys_set} has the evaluator_type None; known are")


def test_unknown_evaluators_do_not_end_a_run_with_an_average(cfg, nobodys_set):
    cfg.SOLVER.EMA_DECAY, cfg.DATASETS.TEST = 0.5, (nobodys_set,)
    trainer = Trainer(cfg)
    trainer.train()
    assert trainer._last_eval_results == {}
    known = "camvid_sem_seg_val"
    cfg.DATASETS.TEST = (nobodys_set, known)
    results = Trainer.test_average(cfg, trainer.model)
    assert list(results) == [f"{known}_EMA"]
    assert results[f"{known}_EMA"].keys() == {"sem_seg"}
    cfg.DATASETS.TEST = (known,)
    np.testing.assert_equal(
        Trainer.test_average(cfg, trainer.model),
        {"sem_seg_EMA": results[f"{known}_EMA"]["sem_seg"]},
    )


def test_several_test_sets_keep_their_predictions_apart(cfg, nobodys_set):
    """Detectron2 lets the files of the last data set overwrite those of the others."""
    known = "camvid_sem_seg_val"
    kind = MetadataCatalog.get(known).as_dict() | {"name": nobodys_set}
    MetadataCatalog.get(nobodys_set).set(**kind)
    cfg.DATASETS.TEST = (known, nobodys_set)
    trainer = Trainer(cfg)
    Trainer.test(cfg, trainer.model)
    written = Path(cfg.OUTPUT_DIR, "inference").glob("*/sem_seg_predictions.json")
    assert {file.parent.name for file in written} == {known, nobodys_set}
    cfg.DATASETS.TEST = (known,)
    Trainer.test(cfg, trainer.model)
    assert Path(cfg.OUTPUT_DIR, "inference", "sem_seg_predictions.json").is_file()


@pytest.fixture
def instance_set(cfg: CfgNode, images: Path, tmp_path: Path) -> Iterator[str]:
    """The training images with a box on each, in COCO's format; of two classes."""
    files = sorted(images.iterdir())
    boxes = [
        {"id": i + 1, "image_id": i, "category_id": 3 + 4 * (i % 2), "iscrowd": 0, "area": 200}
        | {"bbox": [5, 5, 20, 10], "segmentation": [[5, 5, 25, 5, 25, 15, 5, 15]]}
        for i in range(len(files))
    ]
    listed = [
        {"id": i, "file_name": f.name, "height": 32, "width": 40} for i, f in enumerate(files)
    ]
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    content = {"info": {}, "images": listed, "annotations": boxes, "categories": categories}
    json_file = tmp_path / "boxes.json"
    json_file.write_text(json.dumps(content))
    register_coco_instances("boxes", {}, str(json_file), str(images))
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("boxes",)
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_instance"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = False
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = True
    yield "boxes"
    DatasetCatalog.remove("boxes")
    MetadataCatalog.remove("boxes")


@pytest.mark.usefixtures("instance_set")
def test_trains_and_evaluates_instances(cfg):
    (first, second) = next(iter(Trainer.build_train_loader(cfg)))
    assert first["image"].shape == second["image"].shape == (3, 32, 32)
    assert set(first["instances"].gt_classes.tolist()) <= {0, 1}
    trainer = Trainer(cfg)
    trainer.train()
    results = trainer._last_eval_results
    assert {"AP", "AP-cat", "AP-dog"} <= results["segm"].keys()
    truth = COCO(str(Path(cfg.OUTPUT_DIR).parent / "boxes.json"))
    written = Path(cfg.OUTPUT_DIR, "inference", "coco_instances_results.json")
    judge = COCOeval(truth, truth.loadRes(json.loads(written.read_text())), "segm")
    for step in (judge.evaluate, judge.accumulate, judge.summarize):
        step()
    assert results["segm"]["AP"] == pytest.approx(100 * judge.stats[0])


@pytest.mark.usefixtures("instance_set")
def test_instances_of_other_classes(cfg):
    Trainer.build_train_loader(cfg)  # reads the JSON, and with it the classes
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    with pytest.raises(InputError, match="boxes has 2 classes, but"):
        Trainer.build_train_loader(cfg)


def test_a_batch_that_is_too_small_for_batch_norm(images, tmp_path):
    cfg = tiny_cfg(tmp_path, {"SOLVER.IMS_PER_BATCH": 1, "INPUT.SIZE_DIVISIBILITY": 32})
    with pytest.raises(
        InputError, match=r"batch norm needs more than one value, .* SOLVER.IMS_PER_BATCH 1 are"
    ):
        Trainer(cfg).train()
