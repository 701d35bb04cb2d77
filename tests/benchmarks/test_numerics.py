"""Comparing precisions: the table, and that bf16 keeps the losses of the first 50 steps."""

import numpy as np
import pytest
import torch

from benchmarks.l2g_inputs import make_batch, make_network
from benchmarks.numerics import Outcome, grey_difference, table
from benchmarks.project_step import ProjectStep

# Largest relative difference of the total of losses at any of the first steps.
TOLERANCE, STEPS = 0.02, 50
WIDTH, CLASSES, VIEW, CROP = 0.0625, 20, 48, 32


def _outcome(scale: float, grey: int) -> Outcome:
    losses = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 4.0]]) * [[1.0], [scale]]
    return Outcome(losses, {"a_0.png": np.full((2, 3), grey, np.uint8), "b_1.png": np.full((4, 4), 7, np.uint8)}, 50.0)


def test_differences_are_relative_to_fp32() -> None:
    outcomes = {"fp32": _outcome(1, 10), "bf16": _outcome(1.1, 8)}
    assert grey_difference(outcomes["bf16"], outcomes["fp32"]) == pytest.approx(12 / 22)
    text = table(outcomes)
    assert "| fp32 | 2 | 0.00% | 0.00% | 0.00 | 50.0 |" in text
    assert "| bf16 | 2 | 10.00% | 5.00% | 0.55 | 50.0 |" in text


def test_bf16_steps_keep_the_losses() -> None:
    losses = {name: _step_losses(name) for name in ("fp32", "bf16")}
    relative = np.abs(losses["bf16"] - losses["fp32"]) / losses["fp32"]
    assert len(relative) == STEPS and relative.max() < TOLERANCE
    assert (relative > 0).any()  # it did run in another precision
    assert losses["fp32"][-1] < 0.9 * losses["fp32"][0]  # and it learned something


def _step_losses(precision: str) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    cpu = torch.device("cpu")
    networks = [make_network(WIDTH, CLASSES, cpu, seed=seed) for seed in (0, 1)]
    batch = make_batch(2, VIEW, CROP, 4, CLASSES)
    step = ProjectStep(networks[0], networks[1], batch, CROP, cpu, precision)
    return np.array([sum(float(v) for v in step.step().values()) for _ in range(STEPS)])
