"""The evaluation of Cityscapes: Detectron2's with the data set's scripts, on several machines."""

import logging
import tempfile
from pathlib import Path
from typing import Any

from detectron2.evaluation import CityscapesInstanceEvaluator, CityscapesSemSegEvaluator
from detectron2.evaluation.cityscapes_evaluation import CityscapesEvaluator
from detectron2.utils import comm

from ..errors import InputError
from .semantic import TakesLabels

_logger = logging.getLogger(__name__)


class _Everywhere(CityscapesEvaluator):
    """Lets Cityscapes' evaluators, which exchange files, work on several machines.

    Detectron2 has all processes write to a folder of the first, which others need not see.
    """

    def reset(self) -> None:
        """A folder of this process's own."""
        self._working_dir = tempfile.TemporaryDirectory(prefix="cityscapes_eval_")
        self._temp_dir = self._working_dir.name
        self._pictures: dict[str, str] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Adds the predictions of a batch, which Cityscapes' scripts name for their pictures.

        Raises:
            InputError: two pictures have the same name.
        """
        for sample in inputs:
            path = sample["file_name"]
            if (other := self._pictures.setdefault(Path(path).stem, path)) != path:
                raise InputError(
                    f"the pictures {other} and {path} have the same name, by which Cityscapes' "
                    "evaluation tells them apart; rename one, with its labels"
                )
        super().process(inputs, outputs)

    def evaluate(self) -> dict[str, Any] | None:
        """The results in the main process, to which the others send their files."""
        is_main = comm.is_main_process()
        own = {} if is_main else {f.name: f.read_bytes() for f in Path(self._temp_dir).iterdir()}
        for files in comm.gather(own):
            for name, content in files.items():
                Path(self._temp_dir, name).write_bytes(content)
        if is_main and not any(Path(self._temp_dir).iterdir()):
            _logger.warning("No image of %s was predicted: no result", self._metadata.name)
            comm.synchronize()
            return {}
        try:
            return super().evaluate()
        finally:
            self._working_dir.cleanup()


class SharedCityscapesSemSegEvaluator(TakesLabels, _Everywhere, CityscapesSemSegEvaluator):
    """Semantic evaluation of Cityscapes on any number of machines."""


class SharedCityscapesInstanceEvaluator(_Everywhere, CityscapesInstanceEvaluator):
    """Instance evaluation of Cityscapes on any number of machines."""
