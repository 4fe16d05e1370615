"""Where the numbers of a run go: the log, metrics.json, TensorBoard, the terminal, and W&B."""

import json
import os
import uuid
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

from ..errors import InputError
from .files import json_lines, replacing
from .terminal import Progress

_WINDOW = 20  # iterations over which a number is smoothed, as for TensorBoard


def build_writers(folder: str, max_iter: int, start: int, project: str = "") -> list[EventWriter]:
    """Detectron2's writers, a short line for the terminal, and one for W&B.

    Args:
        folder: of the run.
        max_iter: the length of the whole run.
        start: the iteration with which it starts; what an earlier run wrote of it and of those
            behind is taken back.
        project: of W&B; empty: nothing goes there.
    """
    os.makedirs(folder, exist_ok=True)
    _take_back(Path(folder, "metrics.json"), start)
    writers = [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(folder, "metrics.json")),
        TensorboardXWriter(folder, purge_step=start or None),
        Progress(max_iter),
    ]
    return [*writers, WandbWriter(folder, project, start)] if project else writers


def _take_back(metrics: Path, start: int) -> None:
    """Leaves lines of earlier iterations; one that is torn goes too."""
    if not metrics.exists():
        return
    kept = []
    for entry in json_lines(metrics):
        with suppress(KeyError, TypeError):  # no training wrote it
            if entry["iteration"] < start:
                kept.append(json.dumps(entry) + "\n")
    with replacing(metrics) as file:
        file.write("".join(kept).encode())


class WandbWriter(EventWriter):
    """Sends what TensorBoard gets to Weights & Biases; ``WANDB_MODE=offline`` keeps it here."""

    def __init__(self, folder: str, project: str, start: int = 0) -> None:
        """Starts a run of W&B, or goes on with that of the folder.

        Args:
            folder: of the run, which also holds the name of the run of W&B.
            project: of W&B.
            start: the iteration with which the run starts.

        Raises:
            InputError: the package is not installed, or W&B refuses the run.
        """
        try:
            import wandb
        except ImportError as error:
            raise InputError(
                f"WANDB_PROJECT is {project!r}, but W&B is not installed; install it with `pip "
                "install 'mask_former[wandb]'`, or leave the key empty"
            ) from error
        name = Path(folder, "wandb_run")
        if not start or not name.is_file():
            name.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
        try:
            self._run: Any = wandb.init(
                project=project,
                dir=folder,
                id=name.read_text(encoding="utf-8"),
                name=Path(folder).name,
                resume="allow",
            )
        except wandb.errors.Error as error:
            raise InputError(
                f"WANDB_PROJECT is {project!r}, which W&B refuses: {error} Or set WANDB_MODE to "
                "offline in the environment, or leave the key empty"
            ) from error
        self._last = -1

    def write(self) -> None:
        """The numbers that are new."""
        by_iteration: dict[int, dict[str, float]] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(_WINDOW)
        for name, (value, iteration) in latest.items():
            if iteration > self._last:
                by_iteration[iteration][name] = value
        for iteration in sorted(by_iteration):
            self._run.log(by_iteration[iteration], step=iteration)
            self._last = iteration

    def close(self) -> None:
        """Waits for what is on its way."""
        self._run.finish()
