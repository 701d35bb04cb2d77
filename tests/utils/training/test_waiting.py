"""Waiting time of a loop, on a clock of our own."""

from collections.abc import Iterator

import pytest

from utils.training import meters as waiting
from utils.training.meters import Waiting


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    return clock


def test_share_of_the_time_waited(clock: Clock) -> None:
    def loader() -> Iterator[int]:
        for item in range(3):
            clock.now += 1  # the loader takes 1 s an item, the work 3 s
            yield item

    items = Waiting(loader())
    clock.now += 50  # before the loop begins
    seen = []
    for item in items:
        seen.append(item)
        clock.now += 3
        if item == 1:
            assert items.share() == pytest.approx(2 / 8)
    assert seen == [0, 1, 2]
    assert items.share() == pytest.approx(1 / 4)


def test_nothing_waited_is_zero(clock: Clock) -> None:
    items = Waiting([1])
    assert list(items) == [1] and items.share() == 0
