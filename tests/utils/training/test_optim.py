"""Learning rates and optimiser groups against the published schedules."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.method import interleaved_groups
from utils.training.optim import Schedule, build_optimizer, set_learning_rate

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "lr_schedule.npz")
GOLDEN_CRT = Path(__file__).parents[2] / "golden" / "crt" / "poly_optimizer.npz"


def _groups() -> dict[str, list[torch.nn.Parameter]]:
    names = ("pretrained_weights", "pretrained_biases", "head_weights", "head_biases")
    return {name: [torch.nn.Parameter(torch.ones(1))] for name in names}


def test_poly_schedule_and_its_strange_momentum_equal_published() -> None:
    groups = interleaved_groups([_groups()], 10.0)
    optimizer = build_optimizer(groups, kind="sgd", lr=0.1, weight_decay=0.0, momentum=0.0005)
    schedule = Schedule("poly", power=0.7)
    for step, expected in enumerate(GOLDEN["poly_lr"]):
        set_learning_rate(optimizer, schedule.rate(0.1, epoch=0, step=step, steps=int(GOLDEN["poly_max_step"])))
        np.testing.assert_allclose([g["lr"] for g in optimizer.param_groups], expected, rtol=1e-6)
        for group in optimizer.param_groups:
            group["params"][0].grad = torch.ones(1)
        optimizer.step()
    after = [g["params"][0].item() for g in optimizer.param_groups]
    np.testing.assert_allclose(after, np.ravel(GOLDEN["poly_params_after"]), rtol=1e-5)


def test_poly_schedule_of_crt_with_its_decay_as_momentum_equals_published() -> None:
    """Two groups, 8 steps of which the last two lie beyond the planned 6: the rate stays."""
    golden = np.load(GOLDEN_CRT)
    start, steps = torch.from_numpy(golden["init"]), int(golden["max_step"])
    parameters = [torch.nn.Parameter(row.clone()) for row in start]
    groups = [{"params": [p], "lr_scale": scale} for p, scale in zip(parameters, (1.0, 10.0), strict=True)]
    momentum, decay = float(golden["sgd_momentum"]), float(golden["weight_decay"][0])
    optimizer = build_optimizer(groups, kind="sgd", lr=0.1, weight_decay=decay, momentum=momentum)
    schedule = Schedule("poly", power=0.9)
    for step, (gradients, after) in enumerate(zip(golden["grads"], golden["trajectory"], strict=True)):
        set_learning_rate(optimizer, schedule.rate(0.1, epoch=0, step=step, steps=steps))
        np.testing.assert_allclose([g["lr"] for g in optimizer.param_groups], golden["lrs"][step], rtol=1e-6)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        np.testing.assert_allclose([p.detach().numpy() for p in parameters], after, rtol=0, atol=1e-6)


def test_step_schedule_equals_published() -> None:
    schedule = Schedule("step", epochs=[5])
    rates = [schedule.rate(0.001, epoch=e, step=e, steps=10) for e in range(10)]
    np.testing.assert_allclose(rates, GOLDEN["voc_epoch_lr"][:, 0], rtol=1e-6)
    np.testing.assert_allclose(np.array(rates) * 10, GOLDEN["voc_epoch_lr"][:, 1], rtol=1e-6)


def test_groups_of_networks_are_interleaved() -> None:
    first, second = _groups(), _groups()
    groups = interleaved_groups([first, second], 10.0)
    optimizer = build_optimizer(groups, kind="sgd", lr=0.5, weight_decay=0.0005, momentum=0.9, nesterov=True)
    assert [g["lr_scale"] for g in optimizer.param_groups] == [1, 1, 2, 2, 10, 10, 20, 20]
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.5, 1, 1, 5, 5, 10, 10]
    assert optimizer.param_groups[1]["params"][0] is second["pretrained_weights"][0]


def test_normalisation_is_a_group_without_decay() -> None:
    norm = {"norm": [torch.nn.Parameter(torch.ones(1))]}
    groups = interleaved_groups([{**_groups(), **norm}, _groups()], 10.0)
    optimizer = build_optimizer(groups, kind="adamw", lr=0.5, weight_decay=0.1, momentum=0.9)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1] * 8 + [0.0] * 2


def test_warm_up_rises_to_the_rate_of_the_phase() -> None:
    schedule = Schedule("step", warmup=4)
    assert schedule.rate(0.01, epoch=0, step=0, steps=10) == pytest.approx(0.0025)
    assert schedule.rate(0.01, epoch=1, step=9, steps=10) == pytest.approx(0.01)
    assert schedule.rate(0.1, epoch=2, step=4, steps=10) == pytest.approx(0.1)
