"""The journal of a training: TensorBoard scalars and pictures, and one log line for each reading of the scalars."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from utils.train_state import Position


class TrainJournal:
    """Writes on the main process and is silent on the others; get one from `open_journal`."""

    def __init__(self, writer: SummaryWriter | None, log: logging.Logger) -> None:
        self.writer, self.log = writer, log

    def scalars(self, at: Position, values: Mapping[str, float], rate: float, total: int) -> None:
        """Write `train/<name>` and a log line.

        Args:
            at: the position after the batch.
            values: means since the last reading.
            rate: base learning rate, written as `train/lr`.
            total: batches of the epoch.
        """
        if self.writer is None:
            return
        for name, value in {**values, "lr": rate}.items():
            self.writer.add_scalar(f"train/{name}", value, at.counter)
        parts = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.log.info("epoch %d batch %d/%d lr %.3g %s", at.epoch, at.batch, total, rate, parts)

    def pictures(self, at: Position, draw: Callable[[], Mapping[str, Tensor]]) -> None:
        """Write `train/<name>` pictures, each (3, h, w) float in [0, 1]; `draw` is called only where they are written."""
        if self.writer is None:
            return
        for name, picture in draw().items():
            self.writer.add_image(f"train/{name}", picture, at.counter)


@contextlib.contextmanager
def open_journal(folder: Path, log: logging.Logger, *, is_main: bool, counter: int) -> Iterator[TrainJournal]:
    """Open the TensorBoard folder `<folder>/tb`; a run resumed at batch `counter` hides what lies beyond it."""
    if not is_main:
        yield TrainJournal(None, log)
        return
    with SummaryWriter(str(folder / "tb"), purge_step=counter or None) as writer:
        yield TrainJournal(writer, log)
