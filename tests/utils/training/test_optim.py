"""Learning rates and optimiser groups against the published schedules."""

from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import TrainConfig
from utils.training.optim import build_optimizer, learning_rate, set_learning_rate

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "lr_schedule.npz")


def _groups() -> dict[str, list[torch.nn.Parameter]]:
    names = ("pretrained_weights", "pretrained_biases", "head_weights", "head_biases")
    return {name: [torch.nn.Parameter(torch.ones(1))] for name in names}


def test_poly_schedule_and_its_strange_momentum_equal_published() -> None:
    config = TrainConfig(schedule="poly", lr=0.1, poly_power=0.7, momentum=0.0005, nesterov=False, weight_decay=0.0)
    groups = _groups()
    optimizer = build_optimizer([groups], config)
    for step, expected in enumerate(GOLDEN["poly_lr"]):
        set_learning_rate(optimizer, learning_rate(config, epoch=0, step=step, steps=int(GOLDEN["poly_max_step"])))
        np.testing.assert_allclose([g["lr"] for g in optimizer.param_groups], expected, rtol=1e-6)
        for group in optimizer.param_groups:
            group["params"][0].grad = torch.ones(1)
        optimizer.step()
    after = [g["params"][0].item() for g in optimizer.param_groups]
    np.testing.assert_allclose(after, np.ravel(GOLDEN["poly_params_after"]), rtol=1e-5)


def test_step_schedule_equals_published() -> None:
    config = TrainConfig(schedule="step", lr=0.001, decay_epochs=[5])
    rates = [learning_rate(config, epoch=e, step=e, steps=10) for e in range(10)]
    np.testing.assert_allclose(rates, GOLDEN["voc_epoch_lr"][:, 0], rtol=1e-6)
    np.testing.assert_allclose(np.array(rates) * 10, GOLDEN["voc_epoch_lr"][:, 1], rtol=1e-6)


def test_groups_of_networks_are_interleaved() -> None:
    first, second = _groups(), _groups()
    optimizer = build_optimizer([first, second], TrainConfig(lr=0.5))
    assert [g["lr_scale"] for g in optimizer.param_groups] == [1, 1, 2, 2, 10, 10, 20, 20]
    assert optimizer.param_groups[1]["params"][0] is second["pretrained_weights"][0]


def test_classification_phase_has_its_own_rate_and_warm_up() -> None:
    config = TrainConfig(lr=0.1, classify_lr=0.01, classify_epochs=2, warmup_iters=4, decay_epochs=[])
    assert learning_rate(config, epoch=0, step=0, steps=10) == pytest.approx(0.0025)
    assert learning_rate(config, epoch=1, step=9, steps=10) == pytest.approx(0.01)
    assert learning_rate(config, epoch=2, step=4, steps=10) == pytest.approx(0.1)
