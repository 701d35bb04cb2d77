"""Mini-batches without end: epoch after epoch, from any position."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from utils.samplers import EpochBatchSampler, Key


class EndlessBatches(Sampler[list[Key]]):
    """This process's share of mini-batches `start` to `stop`, counted from the beginning of training.

    Every epoch has a new order, and its last mini-batch may be smaller (published). See `EpochBatchSampler`.

    Args:
        num_samples: length of the data set.
        batch_size: images per mini-batch over all processes.
        seed: of the orders.
        start: mini-batches that are done already.
        stop: where to end.
        rank: this process, 0-based.
        world: number of processes.
    """

    def __init__(
        self, num_samples: int, batch_size: int, *, seed: int, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.start, self.stop, self.rank, self.world = start, stop, rank, world
        self.per_epoch = -(-num_samples // batch_size)

    def __len__(self) -> int:
        """Return the number of mini-batches left."""
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield (epoch, index) keys, a list per mini-batch."""
        position = self.start
        while position < self.stop:
            for keys in self._epoch(position):
                yield keys
                position += 1
                if position == self.stop:
                    return

    def weighs(self, position: int) -> bool:
        """Return whether this process has images of its own in a mini-batch (otherwise it got a borrowed one)."""
        batch = position % self.per_epoch
        size = min(self.batch_size, self.num_samples - batch * self.batch_size)
        return self.rank < size

    def _epoch(self, position: int) -> EpochBatchSampler:
        epoch, batch = divmod(position, self.per_epoch)
        return EpochBatchSampler(
            self.num_samples,
            self.batch_size,
            shuffle=True,
            seed=self.seed,
            rank=self.rank,
            world=self.world,
            epoch=epoch,
            start_batch=batch,
        )
