"""Evaluation of a model: Detectron2's, told which model, data and evaluators are ours."""

import logging
import os
from contextlib import suppress
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader

from .build.model import build_model
from .data.checks import check_dataset, check_datasets, check_name
from .data.datasets import register_descriptions
from .data.mappers import EvaluationMapper
from .errors import InputError
from .evaluation.choice import build_evaluator, choose_evaluators
from .run.terminal import result_tables
from .tta import SemanticSegmentorWithTTA

_logger = logging.getLogger(__name__)


class EvaluatingTrainer(DefaultTrainer):
    """What evaluates, as class methods, which Detectron2 puts into its trainer."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model on its device, without weights."""
        model = build_model(cfg)
        _logger.debug("Model:\n%s", model)
        return model

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        """The images of a data set, one a batch; the evaluators read the labels.

        Raises:
            InputError: the data set is unknown, not on the disk, or has other classes.
        """
        check_dataset(dataset_name, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        return build_detection_test_loader(cfg, dataset_name, mapper=EvaluationMapper(cfg))

    @staticmethod
    def check_data(cfg: CfgNode, train: bool = True) -> None:
        """Refuses what training, or evaluation alone, would refuse of its data sets.

        Raises:
            InputError: a data set is unknown, bad, or of other classes, or the model cannot be
                evaluated on it.
        """
        check_datasets(cfg, train)
        for name in cfg.DATASETS.TEST:
            try:
                choose_evaluators(cfg, name)
            except NotImplementedError as error:
                _logger.warning("%s: it will not be evaluated", error)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """See :func:`mask_former.d2.evaluation.choice.build_evaluator`."""
        return build_evaluator(cfg, dataset_name, output_folder)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: list[DatasetEvaluator] | None = None,
    ) -> dict[str, Any]:
        """Detectron2's evaluation, whose results are shown as tables."""
        if cfg.DATASETS.TEST:
            _logger.info("Evaluating on %s", ", ".join(cfg.DATASETS.TEST))
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            names = cfg.DATASETS.TEST
            named = {names[0]: results} if len(names) == 1 else results
            for name, measures in named.items():
                if measures:
                    _logger.info("Results on %s, in per cent\n%s", name, result_tables(measures))
        return results

    @staticmethod
    def check_TTA(cfg: CfgNode) -> None:
        """Refuses data sets not evaluated by semantic labels alone, and models without scores."""
        register_descriptions(cfg)
        for name in cfg.DATASETS.TEST:
            check_name(name)
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
        return cls._test_beside(cfg, SemanticSegmentorWithTTA(cfg, model), "TTA")

    @classmethod
    def test_average(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """Results of the moving average of the weights, under names that end in ``_EMA``."""
        _logger.info("Evaluating the moving average of the weights")
        return cls._test_beside(cfg, model, "EMA")

    @classmethod
    def _test_beside(cls, cfg: CfgNode, model: nn.Module, kind: str) -> dict[str, Any]:
        """Results with files and names of their own, of the data sets that have evaluators."""
        folder = os.path.join(cfg.OUTPUT_DIR, f"inference_{kind}")
        evaluators = {}
        for name in cfg.DATASETS.TEST:
            with suppress(NotImplementedError):  # as `test` has said, of the model without
                evaluators[name] = cls.build_evaluator(cfg, name, folder)
        if not evaluators:
            return {}
        evaluated = cfg.clone()
        evaluated.defrost()
        evaluated.DATASETS.TEST = tuple(evaluators)
        results = cls.test(evaluated, model, [*evaluators.values()])
        if len(evaluators) == 1 < len(cfg.DATASETS.TEST):  # by data sets, as `test` names several
            results = dict.fromkeys(evaluators, results)
        return {f"{name}_{kind}": result for name, result in results.items()}
