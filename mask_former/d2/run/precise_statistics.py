"""Statistics of batch norms taken anew before evaluations, over batches of one state of a model."""

from typing import Any

from detectron2.engine.hooks import PreciseBN

from .accumulation import Undo
from .averaging import MovingAverage
from .processes import average_statistics


class PreciseStatistics(PreciseBN):
    """Detectron2's hook, whose statistics are those of all processes, and the moving average's too.

    It stands behind that of the moving average. What ends it half-way leaves what it found.
    """

    def __init__(self, *args: Any, average: MovingAverage | None) -> None:
        """Waits for its time.

        Args:
            args: as of Detectron2's.
            average: of the weights, if there is one.
        """
        super().__init__(*args)
        self._average = average

    def update_stats(self) -> None:
        """Takes the statistics of the next batches."""
        undo = Undo(self._model)
        try:
            super().update_stats()
        except BaseException:
            undo.statistics()
            raise
        average_statistics(self._model)
        if self._average is not None:
            self._average.copy_buffers()
