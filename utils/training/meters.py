"""Running means of what a training logs, and how long it waited for its pictures."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from utils.runtime.device import peak_memory
from utils.runtime.processes import Dist, sum_over_ranks

T = TypeVar("T")


class RunningMeans:
    """Means of logged scalars since the last reading, kept on the device until they are read.

    Args:
        place: this process.
        window: batches that `loss` is averaged over instead (published segmentation stage); 0: none.
        latest: its losses so far, of a resumed run.
    """

    def __init__(self, place: Dist, window: int = 0, latest: Sequence[float] = ()) -> None:
        self.place = place
        self._latest = deque(latest, maxlen=window) if window else None
        self._unread: list[Tensor] = []
        self._sums: dict[str, Tensor] = {}
        self._batches, self._images, self._since = 0, 0, time.monotonic()

    def add(self, losses: Mapping[str, Tensor], share: float, images: int) -> None:
        """Add one batch: `share` is this process's part of the global batch, `images` the global count."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=value.device)) + value.float() * share
        if self._latest is not None:
            self._unread.append(losses["loss"].float() * share)
        self._batches, self._images = self._batches + 1, self._images + images

    def latest(self) -> list[float]:
        """Return the losses of the moving average; every process must call it."""
        if self._latest is None:
            return []
        if self._unread:
            self._latest.extend(sum_over_ranks(torch.stack(self._unread), self.place.world).tolist())
            self._unread.clear()
        return list(self._latest)

    def read(self) -> dict[str, float]:
        """Return means over batches and processes, images/s and peak memory (GiB), and start anew; every process calls it."""
        names = sorted(self._sums)
        stacked = sum_over_ranks(torch.stack([self._sums[n] for n in names]), self.place.world) / self._batches
        values = dict(zip(names, stacked.tolist(), strict=True))
        if latest := self.latest():
            values["loss"] = sum(latest) / len(latest)
        values["images_per_second"] = self._images / (time.monotonic() - self._since)
        values["memory_gib"] = peak_memory(self.place.device)
        self._sums, self._batches, self._images, self._since = {}, 0, 0, time.monotonic()
        return values


class Waiting(Generic[T]):
    """Iterate over `items` and add up the time spent waiting for the next one.

    Attributes:
        seconds: waited so far, since the last `share`.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._items = items
        self.seconds = 0.0
        self._since = time.monotonic()

    def __iter__(self) -> Iterator[T]:
        self._since = time.monotonic()
        iterator = iter(self._items)
        while True:
            asked = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds += time.monotonic() - asked
            yield item

    def share(self) -> float:
        """Return which part of the time since the last call, or the start, was waiting, in [0, 1], and start anew."""
        now = time.monotonic()
        waited, passed = self.seconds, now - self._since
        self.seconds, self._since = 0.0, now
        return waited / passed if passed else 0.0
