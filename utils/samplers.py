"""Which samples make up which batch, on which process."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from utils.seeding import epoch_order

Key = tuple[int, int]


class EpochBatchSampler(Sampler[list[Key]]):
    """Batches of (epoch, index) keys for one process, from any position in an epoch.

    Global batch g is positions g * batch_size to (g + 1) * batch_size of the epoch's order, whatever the number of
    processes; this process takes every `world`-th of them. The last batch may be smaller. A process that would get none
    borrows the first image of the batch, so that all take part in every step (the training loop gives it weight 0).

    Args:
        num_samples: length of the data set.
        batch_size: images per batch over all processes.
        shuffle: a new order each epoch; False keeps the list's order (published).
        seed: of the order.
        rank: this process, 0-based.
        world: number of processes.
        epoch: 0-based.
        start_batch: batches of the epoch that are done already.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world: int = 1,
        epoch: int = 0,
        start_batch: int = 0,
    ) -> None:
        self.num_samples, self.batch_size = num_samples, batch_size
        self.rank, self.world = rank, world
        self.epoch, self.start_batch = epoch, start_batch
        self._order = epoch_order(num_samples, seed, epoch) if shuffle else range(num_samples)

    def __len__(self) -> int:
        """Return the number of batches left in the epoch."""
        return max(0, -(-self.num_samples // self.batch_size) - self.start_batch)

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield this process's share of each batch, from `start_batch` on."""
        for start in range(self.start_batch * self.batch_size, self.num_samples, self.batch_size):
            batch = self._order[start : start + self.batch_size]
            mine = batch[self.rank :: self.world] or batch[:1]
            yield [(self.epoch, index) for index in mine]

    def global_batch_size(self, batch_index: int) -> int:
        """Return the images over all processes of batch `batch_index`, counted from the epoch's beginning."""
        return min(self.batch_size, self.num_samples - batch_index * self.batch_size)
