"""The trainer: Detectron2's, told which model, data, solver and evaluators are ours."""

import contextlib
import logging
import os
import sys
import weakref
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from .build.model import build_model
from .checkpoint import MaskFormerCheckpointer
from .data.checks import check_dataset
from .data.detr_mapper import DETRPanopticDatasetMapper
from .data.evaluation_mapper import EvaluationMapper
from .data.instance_mapper import MaskFormerInstanceDatasetMapper
from .data.mappers import (
    MaskFormerPanopticDatasetMapper,
    MaskFormerSemanticDatasetMapper,
)
from .errors import InputError
from .evaluation.choice import build_evaluator, choose_evaluators
from .mixed_precision import MixedPrecisionTrainer
from .run.terminal import Progress, command_to_resume, result_tables, summary
from .solver import build_lr_scheduler, build_optimizer, mixed_precision
from .tta import SemanticSegmentorWithTTA

_MAPPERS = {
    "mask_former_semantic": MaskFormerSemanticDatasetMapper,
    "mask_former_panoptic": MaskFormerPanopticDatasetMapper,
    "mask_former_instance": MaskFormerInstanceDatasetMapper,
    "detr_panoptic": DETRPanopticDatasetMapper,
}
_logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains and evaluates what a configuration describes."""

    _trainer: SimpleTrainer

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model on its device, without weights."""
        model = build_model(cfg)
        _logger.debug("Model:\n%s", model)
        return model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> DataLoader:
        """Batches of the training sets, by the mapper that ``INPUT.DATASET_MAPPER_NAME`` names.

        Raises:
            InputError: a data set is unknown, not on the disk, or has other classes.
        """
        for name in cfg.DATASETS.TRAIN:
            check_dataset(name, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        name = cfg.INPUT.DATASET_MAPPER_NAME
        if name in _MAPPERS:
            return build_detection_train_loader(cfg, mapper=_MAPPERS[name](cfg, True))
        known = ", ".join(_MAPPERS)
        _logger.warning(
            "INPUT.DATASET_MAPPER_NAME is %r: taking Detectron2's mapper (ours: %s)", name, known
        )
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        """The images of a data set, one a batch; the evaluators read the labels.

        Raises:
            InputError: the data set is unknown, not on the disk, or has other classes.
        """
        check_dataset(dataset_name, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        return build_detection_test_loader(cfg, dataset_name, mapper=EvaluationMapper(cfg))

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """See :func:`mask_former.d2.evaluation.choice.build_evaluator`."""
        return build_evaluator(cfg, dataset_name, output_folder)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        """See :func:`mask_former.d2.solver.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> LRScheduler:
        """See :func:`mask_former.d2.solver.build_lr_scheduler`."""
        return build_lr_scheduler(cfg, optimizer)

    @staticmethod
    def check_TTA(cfg: CfgNode) -> None:
        """Refuses data sets not evaluated by semantic labels alone, and models without scores."""
        for name in cfg.DATASETS.TEST:
            kind = str(MetadataCatalog.get(name).get("evaluator_type"))
            if not kind.endswith("sem_seg"):
                raise InputError(
                    f"test-time augmentation gives semantic labels alone, but data set {name} is "
                    f"evaluated as {kind}; set TEST.AUG.ENABLED False, or name a semantic data set"
                )
        if cfg.MODEL.MASK_FORMER.TEST.SEM_SEG_OUTPUT == "labels":
            raise InputError(
                "test-time augmentation averages scores, which MODEL.MASK_FORMER.TEST."
                "SEM_SEG_OUTPUT 'labels' leaves out; set it to 'scores'"
            )

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """Results with test-time augmentation, under names that end in ``_TTA``.

        Raises:
            InputError: a data set is not evaluated by semantic labels alone.
        """
        cls.check_TTA(cfg)
        _logger.info("Evaluating with test-time augmentation")
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, SemanticSegmentorWithTTA(cfg, model), evaluators)
        return {f"{name}_TTA": result for name, result in results.items()}

    def __init__(self, cfg: CfgNode) -> None:
        """Builds model, optimizer, loader and schedule.

        Args:
            cfg: the whole configuration.

        Raises:
            InputError: the model cannot be evaluated on DATASETS.TEST, said before it is trained;
                or SOLVER.AMP.DTYPE is unknown.
        """
        for name in cfg.DATASETS.TEST:
            with contextlib.suppress(NotImplementedError):  # of which Detectron2 will speak
                choose_evaluators(cfg, name)
        dtype = mixed_precision(cfg)
        super().__init__(cfg if dtype is None else _without_mixed_precision(cfg))
        if dtype is not None:
            self.cfg.SOLVER.AMP.ENABLED = True
            self._trainer = MixedPrecisionTrainer(self._trainer, dtype)

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks, saving with our checkpointer, also when training fails."""
        # Here, because the hooks take the checkpointer along.
        self.checkpointer = MaskFormerCheckpointer(
            self.model, self.cfg.OUTPUT_DIR, strict_classes=False, trainer=weakref.proxy(self)
        )
        timer, schedule, *others = super().build_hooks()
        return [timer, schedule, CheckpointOnFailure(), *others]

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: list[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Detectron2's evaluation, whose results are shown as tables."""
        _logger.info("Evaluating on %s", ", ".join(cfg.DATASETS.TEST))
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            names = cfg.DATASETS.TEST
            named = {names[0]: results} if len(names) == 1 else results
            for name, measures in named.items():
                if measures:
                    _logger.info("Results on %s, in per cent\n%s", name, result_tables(measures))
        return results

    def train(self) -> Any:
        """Says what the run is, then trains."""
        pictures = _num_pictures(self.data_loader)
        _logger.info("%s", summary(self.cfg, self.model, pictures, self.start_iter))
        return super().train()

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's, which fill the log, and a short line for the terminal."""
        return [*super().build_writers(), Progress(self.max_iter)]

    def state_dict(self) -> dict[str, Any]:
        """With the optimizer and the gradient scaler, which Detectron2 0.6 forgets."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the state of a run."""
        super().load_state_dict(state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])
        else:
            _logger.warning("The checkpoint has no optimizer state: the optimizer starts anew")


def _num_pictures(loader: Any) -> int | None:
    """The size of what Detectron2 wraps several times; None of somebody else's loader."""
    while hasattr(loader, "dataset"):
        loader = loader.dataset
    return len(loader) if hasattr(loader, "__len__") else None


def _without_mixed_precision(cfg: CfgNode) -> CfgNode:
    """So that Detectron2 makes its plain loop, which ours then takes over."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP.ENABLED = False
    return cfg


class CheckpointOnFailure(HookBase):
    """Saves a checkpoint when an exception, or Ctrl-C, ends the training.

    It stands behind the hook of the schedule: an iteration is complete when the optimizer and the
    schedule have made their step. One that is not complete is run again by ``--resume``.
    """

    _complete = -1

    def after_step(self) -> None:
        """One more iteration is complete."""
        self._complete = self.trainer.iter

    def after_train(self) -> None:
        """Called after a failure too; then the trainer has not reached ``max_iter``."""
        if self.trainer.iter >= self.trainer.max_iter:
            return
        failed = self.trainer.iter
        # What is saved; it also keeps Detectron2 from evaluating after a failed last iteration.
        self.trainer.iter = max(self._complete, self.trainer.start_iter - 1)
        # Any process may be the one that fails, and all hold the same weights.
        checkpointer = self.trainer.checkpointer
        checkpointer.save_to_disk = True
        checkpointer.save(f"model_interrupted_rank{comm.get_rank()}")
        next_iter = self.trainer.iter + 1
        _logger.debug("Training ended in iteration %d; --resume goes on at %d", failed, next_iter)
        if (error := sys.exception()) is not None:
            # Python and train_net.py print it last, below whatever ended the training.
            error.add_note(
                f"training ended in iteration {failed}; --resume goes on at {next_iter}:"
            )
            error.add_note(f"    {command_to_resume(sys.argv)}")
