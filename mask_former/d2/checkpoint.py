"""Checkpoints: Detectron2's checkpointer, which reads safely and tells what found its place."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.checkpoint import DetectionCheckpointer
from tabulate import tabulate
from torch import nn

from .errors import InputError
from .run.files import remove_unfinished, replacing
from .weights.class_layer import check_class_entries, go_over_by_name, other_class_counts
from .weights.reading import RECORD_KEY, Unreadable, fetch_weights, read_weights
from .weights.record import ModelRecord
from .weights.zoo import zoo_class_names

AVERAGE = "ema"
"""Where a file has the moving average of the weights, beside the weights."""
_BY_END = "?matching_heuristics=True"
_LISTED = 5
_logger = logging.getLogger(__name__)


class LoadOptions(NamedTuple):
    """How weights are loaded."""

    trusted: bool = False
    """Let a file run whatever it names, as pickles may."""
    min_loaded: float = 0.5
    """The least fraction of the file's weights that must find a place in the model."""


class Diverged(InputError):
    """The numbers of a training are no longer finite."""


class MaskFormerCheckpointer(DetectionCheckpointer):
    """Reads and writes the checkpoints of a model.

    Args:
        model: also wrapped for distributed training.
        save_dir: the folder in which checkpoints are written and looked for.
        averaged: take the moving average of the weights where the file has it, and say so.
        strict_classes: refuse weights of another number of classes, as evaluation needs; else the
            class layer starts anew, as fine-tuning needs. A resumed run always refuses.
        options: may be set again until something is loaded.
        record: what files say of the model, saved beside it.
        class_names: names of the model's classes; if given, rows of the class layer go over by
            name, except where ``strict_classes`` holds. See ``MODEL.CLASSES_BY_NAME``.
        kwargs: as Detectron2's, above all what to save beside the model.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        averaged: bool = False,
        strict_classes: bool = True,
        options: LoadOptions | None = None,
        record: ModelRecord | None = None,
        class_names: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        recorded = {} if record is None else {RECORD_KEY: record}
        super().__init__(model, save_dir, **recorded, **kwargs)
        self.averaged = averaged
        self.strict_classes = strict_classes
        self.options = options or LoadOptions()
        self.class_names = class_names
        self.unsaved = ""
        """Why the last checkpoint could not be saved; empty: it was."""
        self._by_end = False
        self._resuming = False
        self._last_iteration: int | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        """Saves a checkpoint that is whole and finite, or none, and tags it as the last.

        Where the disk is full, one line says so and the training goes on; see ``unsaved``.

        Raises:
            Diverged: a weight or a statistic is not finite.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        model = self.model.state_dict()
        if (broken := _not_finite(model)) is not None:
            raise Diverged(
                f"the training has diverged: {broken} is not finite, and {name} was not saved; "
                "lower SOLVER.BASE_LR, or clip gradients (SOLVER.CLIP_GRADIENTS)"
            )
        states = {key: part.state_dict() for key, part in self.checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        try:
            with replacing(path) as file:
                torch.save({"model": model, **states, **kwargs}, file)
            self.tag_last_checkpoint(f"{name}.pth")
        except (OSError, RuntimeError) as error:  # torch's writer answers for the disk's
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            self.unsaved = f"{path} could not be saved: {str(reason).splitlines()[0]}"
            _logger.warning("%s; the training goes on", self.unsaved)
            return
        self.unsaved = ""
        self._last_iteration = states.get("trainer", {}).get("iteration")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Writes which file is the last."""
        with replacing(os.path.join(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename.encode())

    def last_iteration(self) -> int | None:
        """The last iteration that was saved or taken up; None: there is none."""
        return self._last_iteration

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """The last checkpoint of ``save_dir`` if there is one and ``resume`` says so, else a file.

        Args:
            path: the weights to start from; empty: start from scratch.
            resume: go on with the run whose checkpoints lie in ``save_dir``.
        """
        if self.save_dir and self.save_to_disk:
            remove_unfinished(self.save_dir)
        if not (resume and self.has_checkpoint()):
            return super().resume_or_load(path, resume=False)
        self.strict_classes = self._resuming = True
        last = Path(self.get_checkpoint_file())
        others = sorted(
            Path(self.save_dir).glob("model_*.pth"), key=lambda file: -file.stat().st_mtime
        )
        torn = []
        for file in [last, *(file for file in others if file != last)]:
            try:
                return self.load(str(file))
            except Unreadable as error:
                torn.append(error)
                _logger.warning("%s cannot be read; trying the checkpoint before it", file)
        raise torn[0]

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Loads a checkpoint and logs one table of what found its place.

        Args:
            path: a file, or an address that Detectron2 can fetch; empty: nothing is loaded. With
                ``?matching_heuristics=True`` behind it, as in Detectron2's main branch, names are
                matched by their ends.
            checkpointables: what else of the file is taken up; None: all of it.

        Returns:
            What the file has beside, such as the iteration.

        Raises:
            InputError: the file is missing, broken, not safe to read, of another number of classes,
                has numbers that are not finite, or too little of it fits the model.
        """
        path = path or ""
        self._by_end = path.endswith(_BY_END)
        path = path.removesuffix(_BY_END)
        try:
            path = path and fetch_weights(path)
            rest = super().load(path, checkpointables)
            trainer = self.checkpointables.get("trainer") if checkpointables is None else None
            self._last_iteration = getattr(trainer, "iter", None)
            return rest
        except OSError as error:
            raise Unreadable(
                f"cannot read the weights {path}: {error}; mend MODEL.WEIGHTS"
            ) from error

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = {**read_weights(filename, trusted=self.options.trusted), "file": filename}
        average = average_weights(checkpoint) if self.averaged else None
        if average is not None:
            checkpoint["model"] = average
            _logger.info("Taking the moving average of the weights (EMA) of %s", filename)
        if self._by_end:
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        file, weights = checkpoint.pop("file"), checkpoint["model"]
        number = len(weights)
        check_class_entries(weights, self.model, file)
        if self.class_names and not self.strict_classes:
            names = _names_in(checkpoint, file)
            go_over_by_name(weights, self.model, names, self.class_names, file)
        anew = other_class_counts(weights, self.model)
        if anew and self.strict_classes:
            found, expected = next(iter(anew.values()))
            raise InputError(
                f"{file} has {found} classes, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is {expected}; "
                f"set it to {found} together with the data sets, or give weights of {expected} "
                "classes (without --resume and --eval-only, the class layer would start anew)"
            )
        for key in anew:
            del weights[key]
        incompatible = self._fill_model(file, checkpoint)
        if (broken := _not_finite(self.model.state_dict())) is not None:
            raise InputError(
                f"{broken} is not finite after {file} was loaded, as a training that has diverged "
                "leaves it; give other weights"
            )
        # The model's own count is larger: PyTorch does not miss num_batches_tracked in old files.
        unused = len(incompatible.unexpected_keys) + len(incompatible.incorrect_shapes)
        loaded = number - len(anew) - unused
        classes = {key.removeprefix("module."): numbers for key, numbers in anew.items()}
        # The table has a row of its own for these.
        missing = [key for key in incompatible.missing_keys if key not in classes]
        incompatible.missing_keys[:] = missing
        if self._resuming:
            _require_same_model(file, incompatible)
        _log_table(file, loaded, number, incompatible, classes)
        self._require_enough(file, loaded, number - len(anew))
        return incompatible

    def _fill_model(self, file: str, checkpoint: dict[str, Any]) -> Any:
        try:
            with _silent("detectron2.checkpoint.c2_model_loading"):
                return super()._load_model(checkpoint)
        except ValueError as error:
            raise InputError(
                f"the names in {file} do not tell where its weights belong ({error}); convert it, "
                "with `mask_former convert-swin` or convert-torchvision"
            ) from error

    def _require_enough(self, file: str, loaded: int, number: int) -> None:
        if loaded < self.options.min_loaded * number:
            raise InputError(
                f"only {loaded} of the {number} weights in {file} fit the model, less than "
                f"--min-loaded {self.options.min_loaded:g}; the model would be left at random "
                "numbers: choose the configuration that belongs to the file, or lower --min-loaded"
            )

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """Nothing more: the table has told."""


def _not_finite(model: dict[str, torch.Tensor]) -> str | None:
    """The first weight or statistic that has an infinite number or none; None: all are finite."""
    return next((key for key, value in model.items() if not value.isfinite().all()), None)


def average_weights(checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """The moving average of the weights that a file has beside them; None: none, or of no step."""
    state = checkpoint.get(AVERAGE)
    if not isinstance(state, dict) or not state.get("n_averaged"):
        return None
    return {key.removeprefix("module."): x for key, x in state.items() if key != "n_averaged"}


def _require_same_model(file: str, incompatible: Any) -> None:
    """Refuses to go on with a run whose configuration has become another model's."""
    faults = [
        f"{key} is {found} in the file, {own} in the configuration"
        for key, found, own in incompatible.incorrect_shapes
    ]
    faults += [f"{key} is only in the configuration" for key in incompatible.missing_keys]
    faults += [f"{key} is only in the file" for key in incompatible.unexpected_keys]
    if faults:
        raise InputError(
            f"{file} is of another model: {_shortened(faults)}; --resume goes on with the "
            "configuration of the run, its config.yaml; to start from these weights, give them as "
            "MODEL.WEIGHTS and another OUTPUT_DIR"
        )


def _names_in(checkpoint: dict[str, Any], file: str) -> list[str]:
    """The classes that a file names, or its own name, if that is of the zoo; or none."""
    if RECORD_KEY in checkpoint:
        return ModelRecord.parse(checkpoint[RECORD_KEY], file).names
    return zoo_class_names(file)


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Keeps Detectron2 from a line for each weight that the table counts."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _log_table(
    file: str,
    loaded: int,
    number: int,
    incompatible: Any,
    classes: dict[str, tuple[int, int]],
) -> None:
    """One line if the file and the model fit, else a table of what found no place."""
    mismatched = {key: (found, own) for key, found, own in incompatible.incorrect_shapes}
    missing = [key for key in incompatible.missing_keys if key not in mismatched]
    unused = incompatible.unexpected_keys
    shapes = [
        f"{key}: {found} in the file, {own} in the model"
        for key, (found, own) in mismatched.items()
    ]
    if not (missing or unused or shapes or classes):
        _logger.info("Weights of %s: all %d found their place", file, number)
        return
    rows = [("loaded", f"{loaded} of the file's {number}", "")]
    if classes:
        found, own = next(iter(classes.values()))
        names = f"of {found} classes in the file, {own} in the model: {_shortened([*classes])}"
        rows.append(("class layer, starts anew", str(len(classes)), names))
    rows += [
        ("missing in the file", str(len(missing)), _shortened(missing)),
        ("unused of the file", str(len(unused)), _shortened(unused)),
        ("shape mismatch", str(len(shapes)), _shortened(shapes)),
    ]
    level = logging.WARNING if missing or shapes else logging.INFO
    table = tabulate(rows, tablefmt="plain", disable_numparse=True)
    _logger.log(level, "Weights of %s:\n%s", file, table)


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
