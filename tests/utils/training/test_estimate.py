"""Sizes and operations against hand arithmetic; what they do when settings change."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from utils.training.estimate import CARDS, GIBIBYTE, Estimate, Memory, Unread, estimate
from utils.training.optim import Schedule, build_optimizer
from utils.training.plan import Plan, Span
from utils.training.sizes import Ledger
from utils.training.state import TrainState
from utils.training.trainer import Course

pytestmark = pytest.mark.usefixtures("forgets_tensors")
SIDE, FLOAT = 8, 4


class _Phase(NamedTuple):
    name: str = "training"
    lr: float = 0.1
    fresh_optimizer: bool = False
    continues: bool = False


class _Two(nn.Module):
    """Two convolutions 3 x 3, 3 -> 4 -> 5 channels, without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 5, 3, padding=1, bias=False)

    def begin(self, phase: Any) -> None:
        raise AssertionError("there is one phase")

    def step_module(self, phase: Any) -> nn.Module:
        return self

    def pictures(self, batch: Any, views: Mapping[str, Tensor]) -> dict[str, Any]:
        return {}

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        loss = self.second(self.first(batch["images"])).square().mean()
        return {"loss": loss, "losses": {}, "views": {}}


def _estimate(*, batch: int = 2, accumulated: int = 1, kind: str = "sgd", precision: str = "fp32") -> Estimate:
    """Return the estimate of 3 epochs over 12 images."""
    network, per_epoch = _Two(), 12 // batch
    plan = Plan(12, batch, accumulated, False, 0, [Span(_Phase(), 0, 3 * per_epoch)])

    def begin() -> tuple[_Two, Course, TrainState]:
        groups = [{"params": list(network.parameters()), "lr_scale": 1.0}]
        optimizer = build_optimizer(groups, kind=kind, lr=1.0, weight_decay=0.0, momentum=0.9)
        course = Course(
            plan=plan, schedule=Schedule("step"), dataset=Unread(), collate=None, workers=0, seed=0, precision=precision,
            trains_norm=False, model_dir=Path(), log_dir=Path(), log_every=1, images_every=0, save_every=0, mean=(), std=(),
        )  # fmt: skip
        return network, course, TrainState({"state_dict": network}, optimizer, {})

    return estimate(network, begin, lambda images: {"images": torch.zeros(images, 3, SIDE, SIDE), "id": ["a"] * images})


FIRST, SECOND = 3 * 4 * 9, 4 * 5 * 9  # weights
CELLS = 2 * SIDE * SIDE  # of two images


def test_a_step_by_hand() -> None:
    found = _estimate()
    assert found.parameters == FIRST + SECOND
    weights = FLOAT * (FIRST + SECOND)
    # Kept for the backward pass: what the second convolution sees, and what is squared; and the loss itself.
    kept = FLOAT * (4 * CELLS + 5 * CELLS) + FLOAT
    memory = found.memory
    assert (memory.weights, memory.gradients, memory.optimizer) == (weights, weights, weights)
    assert (memory.batch, memory.activations) == (FLOAT * 3 * CELLS, kept)
    # At the peak there are the gradient of what is squared and its factors as well.
    lasting = 2 * weights + memory.batch + kept
    assert lasting < memory.peak < lasting + 4 * FLOAT * 5 * CELLS + weights
    # A multiplication and an addition a weight and cell, forward, for the weights' gradient and, of the second, the input's.
    assert found.step_flops == 2 * CELLS * (2 * FIRST + 3 * SECOND)
    assert (found.steps, found.images) == (18, 2)
    assert found.flops == 18 * found.step_flops


def test_what_settings_change() -> None:
    once = _estimate()
    accumulated = _estimate(accumulated=3)
    assert accumulated.step_flops == once.step_flops
    assert accumulated.flops == once.flops
    # Only from the second mini-batch of a step on the first one's gradients are there already.
    assert once.memory.peak < accumulated.memory.peak <= once.memory.peak + 2 * once.memory.gradients
    adam = _estimate(kind="adamw").memory
    assert adam.optimizer == 2 * once.memory.optimizer + 2 * FLOAT  # and how many steps there were, of either weight
    half = _estimate(precision="auto")
    assert half.precision == "bf16"
    # As on CUDA: the convolutions' inputs and weights are kept in bf16; what is squared, and the loss, in float32.
    assert half.memory.activations == 2 * (7 * CELLS + FIRST + SECOND) + FLOAT * (5 * CELLS + 1)
    assert half.memory.gradients == once.memory.gradients


def test_processes_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _estimate(batch=4)
    monkeypatch.setenv("WORLD_SIZE", "2")
    half = _estimate(batch=4)
    assert (half.images, half.steps, 2 * half.flops) == (2, whole.steps, whole.flops)


def test_memory_is_followed_to_its_end() -> None:
    ledger, size = Ledger(), FLOAT * 1000
    with FakeTensorMode(), ledger:
        kept = torch.zeros(1000)
        view = kept.view(10, 100)[3]
        other = kept + 1
        assert (ledger.alive, ledger.peak) == (2 * size, 2 * size)
        del other, kept
        assert (ledger.alive, ledger.peak) == (size, 2 * size)  # the view holds it
        del view
        assert ledger.alive == 0


def test_hours_are_arithmetic() -> None:
    memory = Memory(GIBIBYTE, 0, 0, 0, 0, 0)
    found = Estimate(1, 1, 1, memory, 1, int(3600 * 0.4 * 19.5e12), "fp32", "no list")
    assert found.seconds(CARDS["A100"]) == pytest.approx(3600)
    assert str(found).startswith("no list\n")
    assert "1:00:00" in str(found)
    assert "not a measurement" in str(found)
