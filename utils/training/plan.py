"""Which batch comes when: the course of a training as pure functions of its position."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from utils.data.samplers import EpochBatchSampler, Key


class Phase(Protocol):
    """A phase of `models.method`, seen from here."""

    @property
    def name(self) -> str: ...

    @property
    def lr(self) -> float: ...

    @property
    def fresh_optimizer(self) -> bool: ...

    @property
    def continues(self) -> bool: ...


@dataclass(frozen=True)
class Span:
    """The mini-batches `start` to `stop` - 1 that a phase trains on."""

    phase: Phase
    start: int
    stop: int


def batches_of(images: int, batch_size: int, *, drop_last: bool = False) -> int:
    """Return how many mini-batches an epoch over `images` has."""
    return images // batch_size if drop_last else -(-images // batch_size)


@dataclass(frozen=True)
class Plan:
    """The course of a training. A position counts mini-batches since the beginning of epoch 0.

    Attributes:
        images: length of the data set.
        batch_size: images per mini-batch over all processes; an epoch's last one may be smaller.
        iter_size: mini-batches accumulated per optimiser step.
        shuffle: a new order each epoch; False keeps the list's order.
        seed: of the orders.
        spans: phases in order, without gaps.
        counts_steps: steps run on across the ends of epochs, and logs and checkpoints count them (published segmentation
            stage). False: the last step of an epoch may accumulate fewer mini-batches, and these are counted.
        drop_last: an epoch's images that fill no mini-batch are left out.
    """

    images: int
    batch_size: int
    iter_size: int
    shuffle: bool
    seed: int
    spans: Sequence[Span]
    counts_steps: bool = False
    drop_last: bool = False

    @property
    def per_epoch(self) -> int:
        """Return the mini-batches of an epoch."""
        return batches_of(self.images, self.batch_size, drop_last=self.drop_last)

    @property
    def start(self) -> int:
        """Return the position training begins at."""
        return self.spans[0].start

    @property
    def stop(self) -> int:
        """Return the position training ends at."""
        return self.spans[-1].stop

    def span(self, position: int) -> Span:
        """Return the phase of a mini-batch; the last one's at the end."""
        return next((span for span in self.spans if span.start <= position < span.stop), self.spans[-1])

    def window(self, position: int) -> tuple[int, int]:
        """Return (first, behind the last) mini-batch of the optimiser step that a mini-batch belongs to."""
        epoch_start = 0 if self.counts_steps else position // self.per_epoch * self.per_epoch
        first = epoch_start + (position - epoch_start) // self.iter_size * self.iter_size
        behind = first + self.iter_size
        return first, behind if self.counts_steps else min(behind, epoch_start + self.per_epoch)

    def step(self, position: int) -> tuple[int, int]:
        """Return (the 0-based optimiser step of a mini-batch within its phase, the steps of that phase).

        A phase and those that continue it count as one.
        """
        first = last = self.spans.index(self.span(position))
        while first > 0 and self.spans[first].phase.continues:
            first -= 1
        while last + 1 < len(self.spans) and self.spans[last + 1].phase.continues:
            last += 1
        start, stop = self.spans[first].start, self.spans[last].stop
        if self.counts_steps:
            return (position - start) // self.iter_size, (stop - start) // self.iter_size
        each = -(-self.per_epoch // self.iter_size)
        epoch, batch = divmod(position - start, self.per_epoch)
        return epoch * each + batch // self.iter_size, (stop - start) // self.per_epoch * each

    def counter(self, position: int) -> int:
        """Return what logs and checkpoints count: optimiser steps done, or mini-batches done in this run."""
        return position // self.iter_size if self.counts_steps else position - self.start

    def due(self, every: int, first: int, position: int) -> bool:
        """Return whether something done at each `every`-th count (0: never) falls between two positions."""
        return every > 0 and self.counter(position) // every > self.counter(first) // every

    def ends_epoch(self, position: int) -> bool:
        """Return whether a position lies at the end of an epoch, or of the training."""
        return position == self.stop or (not self.counts_steps and position % self.per_epoch == 0)

    def images_in(self, position: int) -> int:
        """Return the images of a mini-batch over all processes."""
        return min(self.batch_size, self.images - position % self.per_epoch * self.batch_size)

    def describe(self, position: int) -> str:
        """Return where training stands behind mini-batch `position` - 1, for a log line."""
        if self.counts_steps:
            return f"iteration {self.counter(position)}/{self.counter(self.stop)}"
        epoch, batch = divmod(position - 1, self.per_epoch)
        return f"epoch {epoch} batch {batch + 1}/{self.per_epoch}"


class PlannedBatches:
    """One process's share of all mini-batches of a plan from a position on, epoch after epoch; see `EpochBatchSampler`."""

    def __init__(self, plan: Plan, position: int, *, rank: int, world: int) -> None:
        self.plan, self.position, self.rank, self.world = plan, position, rank, world

    def __len__(self) -> int:
        """Return the number of mini-batches left."""
        return max(0, self.plan.stop - self.position)

    def __iter__(self) -> Iterator[list[Key]]:
        """Yield (epoch, index) keys, a list per mini-batch."""
        plan, position = self.plan, self.position
        while position < plan.stop:
            epoch, batch = divmod(position, plan.per_epoch)
            rest = EpochBatchSampler(
                plan.images,
                plan.batch_size,
                shuffle=plan.shuffle,
                seed=plan.seed,
                rank=self.rank,
                world=self.world,
                epoch=epoch,
                start_batch=batch,
            )
            for keys in rest:
                yield keys
                position += 1
                if position == plan.stop:
                    return
                if position % plan.per_epoch == 0:  # what is left fills no mini-batch
                    break
