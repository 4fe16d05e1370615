"""The trainer: Detectron2's, told which model, data, solver and evaluators are ours."""

import logging
import weakref
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, get_detection_dataset_dicts
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.engine.hooks import (
    IterationTimer,
    LRScheduler,
    PeriodicCheckpointer,
    PeriodicWriter,
    get_bn_modules,
)
from detectron2.engine.train_loop import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler as Schedule

from .checkpoint import AVERAGE, Diverged, MaskFormerCheckpointer
from .data.checks import check_dataset
from .data.mappers import (
    DETRPanopticDatasetMapper,
    MaskFormerInstanceDatasetMapper,
    MaskFormerPanopticDatasetMapper,
    MaskFormerSemanticDatasetMapper,
)
from .errors import InputError
from .evaluating import EvaluatingTrainer
from .mixed_precision import MixedPrecisionTrainer
from .run.accumulation import AccumulatingTrainer, check_parts, unwrapped
from .run.averaging import MovingAverage
from .run.class_weights import keep_class_weights
from .run.data_order import OrderedLoader, build_train_loader
from .run.evaluation_hook import Evaluation, NoImprovement
from .run.freezing import freeze
from .run.interruption import (
    CheckpointOnFailure,
    KeepLast,
    StopOnSignal,
    Stopped,
    describe_divergence,
)
from .run.precise_statistics import PreciseStatistics
from .run.processes import distributed
from .run.randomness import reseed, set_deterministic
from .run.terminal import summary
from .run.validation import validation_losses
from .run.writers import build_writers
from .solver import (
    build_lr_scheduler,
    build_optimizer,
    changed_settings,
    check_optimizer_state,
    check_solver,
    mixed_precision,
    settings_kept,
)
from .weights.reading import RECORD_KEY
from .weights.record import ModelRecord

_MAPPERS = {
    "mask_former_semantic": MaskFormerSemanticDatasetMapper,
    "mask_former_panoptic": MaskFormerPanopticDatasetMapper,
    "mask_former_instance": MaskFormerInstanceDatasetMapper,
    "detr_panoptic": DETRPanopticDatasetMapper,
}
_logger = logging.getLogger(__name__)


class Trainer(EvaluatingTrainer):
    """Trains and evaluates what a configuration describes."""

    _trainer: AccumulatingTrainer

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> OrderedLoader:
        """Batches of the training sets, by the mapper that ``INPUT.DATASET_MAPPER_NAME`` names.

        Raises:
            InputError: a data set is unknown, not on the disk, or has other classes.
        """
        for name in cfg.DATASETS.TRAIN:
            check_dataset(name, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        return build_train_loader(cfg, cls.build_train_mapper(cfg))

    @classmethod
    def build_train_mapper(cls, cfg: CfgNode) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
        """The mapper that ``INPUT.DATASET_MAPPER_NAME`` names."""
        name = cfg.INPUT.DATASET_MAPPER_NAME
        if name in _MAPPERS:
            return _MAPPERS[name](cfg, True)
        known = ", ".join(_MAPPERS)
        _logger.warning(
            "INPUT.DATASET_MAPPER_NAME is %r: taking Detectron2's mapper (ours: %s)", name, known
        )
        return DatasetMapper(cfg, True)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> Optimizer:
        """See :func:`mask_former.d2.solver.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: Optimizer) -> Schedule:
        """See :func:`mask_former.d2.solver.build_lr_scheduler`."""
        return build_lr_scheduler(cfg, optimizer)

    def __init__(self, cfg: CfgNode) -> None:
        """Builds model, optimizer, loader and schedule.

        Args:
            cfg: the whole configuration.

        Raises:
            InputError: a data set is unknown, not on the disk or has other classes, or the model
                cannot be evaluated on it, said before it is trained; or a setting is wrong.
        """
        check_solver(cfg)
        self.check_data(cfg)
        dtype = mixed_precision(cfg)
        if cfg.SOLVER.DETERMINISTIC:  # else as the process has it
            set_deterministic(True)
        # Not Detectron2's own, which wants CUDA for several processes and for mixed precision.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        self.cfg = cfg = _with_seed(DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size()))
        reseed(self.cfg.SEED, 2)  # the same first weights in every process
        model = self.build_model(cfg)
        freeze(model, cfg.SOLVER.FREEZE)
        decay = cfg.SOLVER.EMA_DECAY
        self._average = MovingAverage(model, decay) if decay else None
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        check_parts(model, cfg.SOLVER.ACCUMULATE)
        self._trainer = AccumulatingTrainer(distributed(model), loader, optimizer)
        self._trainer.parts = cfg.SOLVER.ACCUMULATE
        if dtype is not None:
            self._trainer = MixedPrecisionTrainer(self._trainer, dtype)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        beside: dict[str, Any] = {} if self._average is None else {AVERAGE: self._average.averaged}
        record = ModelRecord.of(cfg)
        self.checkpointer = MaskFormerCheckpointer(
            self.model,
            cfg.OUTPUT_DIR,
            strict_classes=False,
            record=record,
            class_names=record.names_to_go_by(cfg),
            trainer=weakref.proxy(self),
            **beside,
        )
        self._stop = StopOnSignal()
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks but for the writers, and ours."""
        solver, test = self.cfg.SOLVER, self.cfg.TEST
        saving = PeriodicCheckpointer(self.checkpointer, solver.CHECKPOINT_PERIOD)
        return [
            IterationTimer(),
            LRScheduler(),
            self._average,
            CheckpointOnFailure(),
            self._stop,
            self._precise_statistics() if test.PRECISE_BN.ENABLED else None,
            saving if comm.is_main_process() else None,
            KeepLast(solver.CHECKPOINT_PERIOD, solver.CHECKPOINTS_KEPT),
            Evaluation(test.EVAL_PERIOD, self._evaluate, test.BEST_METRIC, test.PATIENCE),
        ]

    def _precise_statistics(self) -> HookBase | None:
        if not get_bn_modules(self.model):
            return None
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # a loader of its own does not disturb the training's
        args = self.model, self.build_train_loader(cfg), cfg.TEST.PRECISE_BN.NUM_ITER
        return PreciseStatistics(cfg.TEST.EVAL_PERIOD, *args, average=self._average)

    def _evaluate(self) -> dict[str, Any]:
        """Results of the model, beside them those of the average, and the losses."""
        cfg = self.cfg
        self._last_eval_results = results = self.test(cfg, self.model)
        if self._average is not None and cfg.DATASETS.TEST:
            results.update(self.test_average(cfg, self._average.averaged.module))
        if cfg.TEST.LOSS and cfg.DATASETS.TEST:
            samples = get_detection_dataset_dicts(cfg.DATASETS.TEST, filter_empty=False)
            results["validation"] = losses = validation_losses(
                self.model, samples, self.build_train_mapper(cfg), cfg.DATALOADER.NUM_WORKERS
            )
            _logger.info("Loss on %s: %.4g", ", ".join(cfg.DATASETS.TEST), losses["loss"])
        return results

    def resume_or_load(self, resume: bool = True) -> None:
        """Takes up the run of OUTPUT_DIR if there is one and ``resume`` says so, else weights."""
        super().resume_or_load(resume)
        keep_class_weights(unwrapped(self.model), self.cfg)
        if self._average is not None and not self._average.averaged.n_averaged:
            if self.start_iter:
                _logger.info("The checkpoint has no moving average of the weights: it starts anew")
            # It is a copy of what the model was before its weights were loaded.
            self._average.averaged.module.load_state_dict(unwrapped(self.model).state_dict())
        if isinstance(self.data_loader, OrderedLoader):
            self.data_loader.first_batch = self.start_iter

    def run_step(self) -> None:
        """One iteration, whose draws depend on the seed, the iteration and the process alone.

        Raises:
            Diverged: the losses are not finite.
            InputError: ``SOLVER.DETERMINISTIC`` asks for what an operation cannot, or the batch is
                too small for batch norm.
        """
        reseed(self.cfg.SEED, 1, self.iter, comm.get_rank())
        try:
            super().run_step()
        except RuntimeError as error:
            if "does not have a deterministic implementation" not in str(error):
                raise
            raise InputError(
                f"SOLVER.DETERMINISTIC is True, but {str(error).partition(',')[0]}; set it to False"
            ) from error
        except (FloatingPointError, ValueError) as error:
            if "more than 1 value per channel" in str(error):
                raise InputError(_too_little_for_batch_norm(self.cfg)) from error
            losses = self._trainer.losses
            lost = [loss for loss in losses.values() if not loss.isfinite().all()]
            if not lost and "diverged" not in str(error):
                raise
            rate = self.cfg.SOLVER.BASE_LR
            raise Diverged(describe_divergence(losses, self.iter, rate, error)) from error

    def train(self) -> Any:
        """Says what the run is, then trains.

        Raises:
            Stopped: a signal has ended the run.
            InputError: the last weights could not be saved.
        """
        pictures = getattr(self.data_loader, "num_pictures", None)
        _logger.info("%s", summary(self.cfg, self.model, pictures, self.start_iter))
        if self.start_iter >= self.max_iter:
            self.checkpointer.save("model_final", iteration=self.iter)  # it may have been killed
        if comm.is_main_process():  # last, so that they write what evaluation gives
            self.register_hooks([PeriodicWriter(self.build_writers(), period=20)])
        try:
            results = super().train()
        except NoImprovement as end:
            _logger.info("%s", end)
            self.checkpointer.save("model_final", iteration=self.iter)
            results = getattr(self, "_last_eval_results", {})
        except Exception as error:
            if not self._stop.number:
                raise
            # A signal to the whole group has ended loader processes or other ranks before us.
            stopped = Stopped(self._stop.number)
            for note in getattr(error, "__notes__", []):
                stopped.add_note(note)
            raise stopped from None
        if self.checkpointer.unsaved:
            raise InputError(f"{self.checkpointer.unsaved}; make room, then give --resume")
        return results

    def build_writers(self) -> list[EventWriter]:
        """See :func:`mask_former.d2.run.writers.build_writers`."""
        folder, project = self.cfg.OUTPUT_DIR, self.cfg.WANDB_PROJECT
        return build_writers(folder, self.max_iter, self.start_iter, project)

    def state_dict(self) -> dict[str, Any]:
        """With the optimizer and the gradient scaler, which Detectron2 0.6 forgets."""
        ours = {"_trainer": self._trainer.state_dict(), "seed": self.cfg.SEED}
        return {**super().state_dict(), **ours, "solver": self.cfg.SOLVER.dump()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the state of a run; what SOLVER says now holds from here on.

        Raises:
            InputError: the state is of another optimizer or another model.
        """
        inner = state_dict.get("_trainer")
        if inner is not None:
            check_optimizer_state(self.optimizer, inner["optimizer"])
        with settings_kept(self.optimizer, self.scheduler):
            super().load_state_dict(state_dict)
            if inner is not None:
                self._trainer.load_state_dict(inner)
        if inner is None:
            _logger.warning("The checkpoint has no optimizer state: the optimizer starts anew")
        if table := changed_settings(state_dict.get("solver", "{}"), self.cfg.SOLVER):
            _logger.info("Settings that have changed since the checkpoint\n%s", table)
        if "seed" in state_dict and state_dict["seed"] != self.cfg.SEED:
            _logger.info("The seed stays %d, that of the run", state_dict["seed"])
            self.cfg = _with_seed(self.cfg, state_dict["seed"])
            self.checkpointer.checkpointables[RECORD_KEY] = ModelRecord.of(self.cfg)
            if isinstance(self.data_loader, OrderedLoader):
                self.data_loader.seed = self.cfg.SEED


def _too_little_for_batch_norm(cfg: CfgNode) -> str:
    return (
        "batch norm needs more than one value, but the coarsest features of a process's share of "
        f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} are one cell; give it more or larger "
        "pictures (INPUT.MIN_SIZE_TRAIN, INPUT.CROP.SIZE), or set MODEL.RESNETS.NORM to GN"
    )


def _with_seed(cfg: CfgNode, seed: int | None = None) -> CfgNode:
    """A configuration with a seed: that given, its own, or one that all processes draw."""
    if seed is None and cfg.SEED >= 0:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = comm.shared_random_seed() if seed is None else seed
    cfg.freeze()
    return cfg
