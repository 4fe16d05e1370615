"""Checkpoints: Detectron2's checkpointer, with an answer to another number of classes."""

import logging
import os
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from mask_former.d2.errors import InputError

# Entries with a row for each class and one for "no object".
_CLASS_ENTRIES = (
    "sem_seg_head.predictor.class_embed.weight",
    "sem_seg_head.predictor.class_embed.bias",
    "criterion.empty_weight",
)


class MaskFormerCheckpointer(DetectionCheckpointer):
    """Reads and writes the checkpoints of a model.

    Args:
        model: also wrapped for distributed training.
        save_dir: where checkpoints are written and looked for.
        strict_classes: refuse weights of another number of classes, as evaluation needs; else the
            class layer starts anew, as fine-tuning needs. A resumed run always refuses.
        kwargs: as Detectron2's, above all what to save beside the model.
    """

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, strict_classes: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(model, save_dir, **kwargs)
        self.strict_classes = strict_classes

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """The last checkpoint of ``save_dir`` if there is one and ``resume`` says so, else a file.

        Args:
            path: of the weights to start from; empty: start from scratch.
            resume: go on with the run whose checkpoints lie in ``save_dir``.
        """
        if resume and self.has_checkpoint():
            self.strict_classes = True
        return super().resume_or_load(path, resume=resume)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Loads a checkpoint, as Detectron2 does.

        Args:
            path: a file, or an address that Detectron2 can fetch; empty: nothing is loaded.

        Raises:
            InputError: there is no such file, or it has another number of classes.
        """
        file = path.partition("?")[0]  # Detectron2's main branch allows options after the name
        if path and "://" not in path and not os.path.isfile(file):
            raise InputError(f"no weights at {file}; mend MODEL.WEIGHTS, or fetch the file first")
        try:
            return super().load(path, *args, **kwargs)
        except OSError as error:
            raise InputError(
                f"cannot read the weights {path}: {error}; mend MODEL.WEIGHTS"
            ) from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        return {**super()._load_file(filename), "file": filename}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        file, weights = checkpoint.pop("file"), checkpoint["model"]
        stale = _entries_of_other_classes(weights, self.model.state_dict())
        if stale:
            self._answer_other_classes(file, *next(iter(stale.values())))
        for key in stale:
            del weights[key]
        incompatible = super()._load_model(checkpoint)
        # One line has told about these; Detectron2 would warn once more.
        dropped = {key.removeprefix("module.") for key in stale}
        missing = [key for key in incompatible.missing_keys if key not in dropped]
        incompatible.missing_keys[:] = missing
        return incompatible

    def _answer_other_classes(self, file: str, found: int, expected: int) -> None:
        numbers = f"{file} has {found} classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is {expected}"
        if self.strict_classes:
            raise InputError(
                f"{numbers}; set it to {found} together with the data sets, or give weights of "
                f"{expected} classes (without --resume and --eval-only, the class layer would "
                "start anew)"
            )
        logging.getLogger(__name__).info("%s: the class layer starts anew", numbers)


def _entries_of_other_classes(
    weights: dict[str, Any], expected: dict[str, torch.Tensor]
) -> dict[str, tuple[int, int]]:
    """Keys of a checkpoint with another number of classes; that number, and the model's."""
    stale = {}
    for key, value in weights.items():
        name = key.removeprefix("module.")
        if name in _CLASS_ENTRIES and name in expected and len(value) != len(expected[name]):
            stale[key] = (len(value) - 1, len(expected[name]) - 1)
    return stale
