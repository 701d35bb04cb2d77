"""How long a loop waits for its input."""

import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


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
