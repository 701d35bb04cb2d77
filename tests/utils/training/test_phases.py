"""Phases of a training: which epochs classify, and the rate each step gets."""

import pytest

from configs.schema import TrainConfig
from utils.training.optim import phase_of


def test_transfer_restarts_the_schedule() -> None:
    train = TrainConfig(epochs=5, classify_epochs=2, schedule="poly", poly_power=1.0, lr=1.0, classify_lr=10.0)
    first, second = phase_of(train, 1), phase_of(train, 2)
    assert (first.start, first.end, first.classifies) == (0, 2, True)
    assert (second.start, second.end, second.classifies) == (2, 5, False)
    assert first.rate(train, epoch=0, batch=0, batches=4) == pytest.approx(10.0)
    assert second.rate(train, epoch=2, batch=0, batches=4) == pytest.approx(1.0)
    assert second.rate(train, epoch=4, batch=3, batches=4) == pytest.approx(1 / 12)


def test_rate_counts_optimiser_steps() -> None:
    train = TrainConfig(epochs=1, iter_size=2, schedule="poly", poly_power=1.0, lr=1.0)
    rates = [phase_of(train, 0).rate(train, epoch=0, batch=b, batches=5) for b in range(5)]
    assert rates == pytest.approx([1, 1, 2 / 3, 2 / 3, 1 / 3])
