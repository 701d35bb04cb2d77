"""The phases of a training: epochs of plain classification, then epochs of transfer, each with its own schedule."""

from dataclasses import dataclass

from configs.schema import TrainConfig
from utils.optimizers import learning_rate


@dataclass(frozen=True)
class Phase:
    """Epochs `start` to `end` - 1 of a run."""

    start: int
    end: int
    classifies: bool

    def rate(self, train: TrainConfig, *, epoch: int, batch: int, batches: int) -> float:
        """Return the base learning rate of the optimiser step that ends with this batch.

        Args:
            train: schedule and its constants.
            epoch: 0-based, of the whole run.
            batch: 0-based, in the epoch.
            batches: of the epoch.
        """
        steps = -(-batches // train.iter_size)
        step = (epoch - self.start) * steps + batch // train.iter_size
        return learning_rate(train, epoch=epoch, step=step, steps=(self.end - self.start) * steps)


def phase_of(train: TrainConfig, epoch: int) -> Phase:
    """Return the phase epoch `epoch` (0-based) belongs to."""
    if epoch < train.classify_epochs:
        return Phase(train.first_epoch, train.classify_epochs, classifies=True)
    return Phase(max(train.first_epoch, train.classify_epochs), train.epochs, classifies=False)
