"""The LazyConfigs: the models of the YAML files, trained in Detectron2's lazy way."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import AMPTrainer, SimpleTrainer, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset

from mask_former.commands.prepare_shapes import prepare
from mask_former.d2.build.model import build_model
from mask_former.d2.config import load_config
from mask_former.d2.solver import build_optimizer

ROOT = Path(__file__).parents[2]
SEMANTIC = "examples/lazy_semantic.py", "ade20k-150/maskformer_R50_bs16_160k.yaml"
PANOPTIC = "examples/lazy_panoptic.py", "coco-panoptic/maskformer_panoptic_R50_bs64_554k.yaml"
SMALL = [
    "model.backbone.stages.norm=BN",
    "model.sem_seg_head.mask_decoder.decoder_layers=2",
    "model.sem_seg_head.mask_decoder.num_classes=7",
    "model.criterion.num_classes=7",
    "dataloader.train.mapper.num_classes=7",
    "dataloader.train.dataset.names=shapes_panoptic_train",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.dataset.names=shapes_panoptic_val",
    "dataloader.test.num_workers=0",
    "dataloader.test.mapper.augmentations.0.short_edge_length=64",
    "dataloader.evaluator.dataset_name=shapes_panoptic_val",
    "train.device=cpu",
]
SMALLER = {
    SEMANTIC: [
        "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
        "dataloader.train.mapper.size_divisibility=64",
    ],
    PANOPTIC: [
        "dataloader.train.mapper.tfm_gens.1.short_edge_length=[64]",
        "model.inference.thing_ids=[3,4,5,6]",
        "model.sem_seg_head.pixel_decoder.encoder_layers=1",
    ],
}


def load(name):
    return LazyConfig.load(str(ROOT / name))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare(folder / "shapes", 0, {"train": 2, "val": 1, "dev": 1})
    return folder


@pytest.mark.parametrize(("lazy", "yaml"), [SEMANTIC, PANOPTIC], ids=["semantic", "panoptic"])
def test_it_describes_the_model_of_the_yaml_file(lazy, yaml, tmp_path):
    cfg, config = load_config(str(ROOT / "configs" / yaml), device="cpu"), load(lazy)
    LazyConfig.save(config, str(tmp_path / "config.yaml"))  # as Detectron2 does before a training
    assert (tmp_path / "config.yaml").is_file()
    theirs, ours = build_model(cfg), instantiate(config.model)
    shapes_of = [{k: v.shape for k, v in m.state_dict().items()} for m in (theirs, ours)]
    assert shapes_of[0] == shapes_of[1]
    assert theirs.size_divisibility == ours.size_divisibility
    options = [
        m.inference._replace(thing_ids={*m.inference.thing_ids}, tiles=(*m.inference.tiles,))
        for m in (theirs, ours)
    ]
    assert options[0] == options[1]
    assert theirs.criterion.weights == ours.criterion.weights
    assert torch.equal(theirs.criterion.empty_weight, ours.criterion.empty_weight)
    config.optimizer.params.model = ours
    groups = [
        [(len(g["params"]), g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
        for optimizer in (build_optimizer(cfg, theirs), instantiate(config.optimizer))
    ]
    assert groups[0] == groups[1]


@pytest.mark.parametrize("files", [SEMANTIC, PANOPTIC], ids=["semantic", "panoptic"])
def test_two_iterations(files, shapes, tmp_path, monkeypatch):
    """The loop of Detectron2's lazyconfig_train_net.py."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes))
    config = LazyConfig.apply_overrides(load(files[0]), [*SMALL, *SMALLER[files]])
    torch.manual_seed(0)
    model = instantiate(config.model).to(config.train.device)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    loader = instantiate(config.dataloader.train)
    kind = AMPTrainer if config.train.amp.enabled else SimpleTrainer
    trainer = kind(create_ddp_model(model, **config.train.ddp), loader, optimizer)
    trainer.register_hooks([hooks.LRScheduler(scheduler=instantiate(config.lr_multiplier))])
    trainer.train(0, 2)
    after = model.state_dict()
    for part in ("backbone.res5", "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"):
        moved = [not torch.equal(before[k], after[k]) for k in after if k.startswith(part)]
        assert any(moved), part
    config.dataloader.evaluator.output_dir = str(tmp_path)
    results = inference_on_dataset(
        model.eval(), instantiate(config.dataloader.test), instantiate(config.dataloader.evaluator)
    )
    kind, measure = ("panoptic_seg", "PQ") if files is PANOPTIC else ("sem_seg", "mIoU")
    assert 0 <= results[kind][measure] <= 100
