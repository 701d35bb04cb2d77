"""The course of a training: which batch comes when, what a step accumulates, what is counted."""

from typing import NamedTuple

import pytest

from utils.training.plan import Plan, PlannedBatches, Span


class _Phase(NamedTuple):
    name: str = "training"
    lr: float = 1.0
    fresh_optimizer: bool = False
    continues: bool = False


def _plan(images: int = 7, batch: int = 3, iter_size: int = 1, stop: int = 9, *, counts_steps: bool = False) -> Plan:
    return Plan(images, batch, iter_size, True, 1, [Span(_Phase(), 0, stop)], counts_steps)


def test_mini_batches_follow_their_position() -> None:
    whole = list(PlannedBatches(_plan(), 0, rank=0, world=1))
    assert [len(batch) for batch in whole] == [3, 3, 1] * 3
    assert [len(PlannedBatches(_plan(), at, rank=0, world=1)) for at in (0, 4, 9)] == [9, 5, 0]
    for start in range(9):
        assert list(PlannedBatches(_plan(), start, rank=0, world=1)) == whole[start:]
    assert sorted(index for batch in whole[3:6] for _, index in batch) == list(range(7))
    assert whole[:3] != [[(0, index) for _, index in batch] for batch in whole[3:6]]  # a new order each epoch


@pytest.mark.parametrize("world", [2, 3])
def test_any_position_continues_each_share_of_either_kind(world: int) -> None:
    plan = _plan(iter_size=2, stop=8, counts_steps=True)  # stops inside an epoch
    for rank in range(world):
        whole = list(PlannedBatches(plan, 0, rank=rank, world=world))
        assert len(whole) == 8
        assert all(list(PlannedBatches(plan, start, rank=rank, world=world)) == whole[start:] for start in range(9))


def test_processes_share_each_mini_batch() -> None:
    whole = list(PlannedBatches(_plan(), 0, rank=0, world=1))
    shares = [list(PlannedBatches(_plan(), 0, rank=rank, world=2)) for rank in (0, 1)]
    for batch, *parts in zip(whole, *shares, strict=True):
        own = parts[0] + (parts[1] if len(batch) > 1 else [])  # a process without images borrows the first one
        assert sorted(own) == sorted(batch)
        assert len(batch) > 1 or parts[1] == batch[:1]


@pytest.mark.parametrize(
    ("counts_steps", "windows"),
    [(False, [(0, 2), (0, 2), (2, 3), (3, 5), (3, 5), (5, 6)]), (True, [(0, 2), (0, 2), (2, 4), (2, 4), (4, 6), (4, 6)])],
)
def test_steps_end_with_the_epoch_or_run_on(counts_steps: bool, windows: list[tuple[int, int]]) -> None:
    plan = _plan(iter_size=2, stop=6, counts_steps=counts_steps)
    assert [plan.window(position) for position in range(6)] == windows
    steps = [plan.step(position) for position in range(6)]
    assert steps == ([(n, 3) for n in (0, 0, 1, 1, 2, 2)] if counts_steps else [(n, 4) for n in (0, 0, 1, 2, 2, 3)])


def test_what_is_due_between_two_positions() -> None:
    plan = _plan(iter_size=2, stop=12, counts_steps=True)
    assert [plan.counter(position) for position in (0, 2, 4)] == [0, 1, 2]
    assert [plan.due(2, first, first + 2) for first in (0, 2, 4)] == [False, True, False]
    assert not plan.due(0, 0, 12)
    assert not plan.ends_epoch(6) and plan.ends_epoch(12)  # steps run on: only the end counts
    assert _plan().ends_epoch(3) and not _plan().ends_epoch(4)


def test_the_schedule_of_a_phase_that_continues_another_runs_on() -> None:
    """Published CRT: 6,610 steps, of which the first 661 have no L1 term."""
    phases = [Span(_Phase("one"), 0, 661), Span(_Phase("two", continues=True), 661, 6610), Span(_Phase("three"), 6610, 7271)]
    plan = Plan(10582, 16, 1, True, 0, phases, drop_last=True)
    assert [plan.step(position) for position in (0, 660, 661, 6609)] == [(0, 6610), (660, 6610), (661, 6610), (6609, 6610)]
    assert plan.step(6610) == (0, 661)


def test_a_run_that_begins_late_counts_from_its_beginning() -> None:
    phases = [Span(_Phase("one"), 6, 9), Span(_Phase("two"), 9, 12)]
    plan = Plan(7, 3, 1, False, 0, phases)
    assert (plan.start, plan.stop, plan.counter(7)) == (6, 12, 1)
    assert [plan.span(position).phase.name for position in (6, 8, 9, 11, 12)] == ["one", "one", "two", "two", "two"]
    assert plan.step(10) == (1, 3)
    assert plan.describe(7) == "epoch 2 batch 1/3"
    assert [plan.images_in(position) for position in (6, 7, 8)] == [3, 3, 1]
