"""Which samples make up which batch, on which process."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

# Keeps the streams of different purposes apart.
_SAMPLE, _STEP, _ORDER = range(3)
_WORDS = 8


@dataclass(frozen=True)
class SampleRng:
    """What published transforms draw from: NumPy for boxes and colours, Python for crop offsets, torch for CDL's colours."""

    numpy: np.random.RandomState
    python: random.Random
    generator: torch.Generator = field(default_factory=torch.Generator)


def sample_rng(seed: int, epoch: int, index: int) -> SampleRng:
    """Return the generators of one sample.

    Args:
        seed: of the run, >= 0.
        epoch: 0-based.
        index: position of the image in the list, 0-based, the same on every rank.
    """
    *words, last = np.random.SeedSequence((_SAMPLE, seed, epoch, index)).generate_state(_WORDS + 1)
    first, second = np.array(words[: _WORDS // 2]), np.array(words[_WORDS // 2 :])
    generator = torch.Generator().manual_seed(int(last))
    return SampleRng(np.random.RandomState(first), random.Random(second.tobytes()), generator)  # noqa: NPY002


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """Return the seed, below 2^63, for what the network draws in one step of one process (dropout)."""
    return int(np.random.SeedSequence((_STEP, seed, epoch, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """Return the shuffled order of `count` samples in an epoch, the same on every rank."""
    order: list[int] = np.random.default_rng((_ORDER, seed, epoch)).permutation(count).tolist()
    return order


Key = tuple[int, int]


class EpochBatchSampler:
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
