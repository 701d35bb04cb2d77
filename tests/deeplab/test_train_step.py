"""Two optimiser iterations, rates and the averaged loss against the published program."""

from pathlib import Path

import numpy as np
import pytest
import torch

from configs.deeplab_schema import DeepLabConfig, SolverConfig
from deeplab.losses import LossModule, multi_scale_loss, resize_labels
from deeplab.network import MultiScale, build_deeplab, segmentation_groups
from deeplab.train import build_schedule
from tests.deeplab.test_network import SCALES, build, published_parameters
from utils.errors import UserError
from utils.runtime.processes import Dist
from utils.training.meters import RunningMeans
from utils.training.optim import build_optimizer, set_learning_rate

GOLDEN = Path(__file__).parents[1] / "golden" / "deeplab"
ALONE = Dist(0, 1, 0, torch.device("cpu"))


def _rate(solver: SolverConfig, iteration: int, warmup: int = 0) -> float:
    """Return the rate of a 1-based iteration."""
    cfg = DeepLabConfig(solver=solver)
    cfg.train.warmup_iters = warmup
    return build_schedule(cfg).rate(solver.lr, epoch=0, step=iteration - 1, steps=solver.iter_max)


def _optimizer(network: MultiScale, solver: SolverConfig) -> torch.optim.Optimizer:
    groups = segmentation_groups(network, solver.weight_decay)
    return build_optimizer(groups, kind="sgd", lr=solver.lr, weight_decay=solver.weight_decay, momentum=solver.momentum)


def test_two_iterations_equal_published() -> None:
    golden = np.load(GOLDEN / "train_step.npz")
    solver = SolverConfig(lr=2.5e-6, lr_decay=1, iter_max=20, iter_size=2)
    network = build()
    module = LossModule(network, balanced=False, reduce_counts=lambda counts: counts).train()
    optimizer = _optimizer(network, solver)
    parameters = published_parameters(network)
    start = {name: value.detach().clone() for name, value in parameters.items()}
    for iteration in (1, 2):
        set_learning_rate(optimizer, _rate(solver, iteration))
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for number, letter in enumerate("ab"):
            images, labels = torch.from_numpy(golden[f"x_{letter}"]), torch.from_numpy(golden[f"labels_{letter}"]).long()
            output = module({"images": images, "labels": labels, "share": 1.0})
            with torch.no_grad():
                losses = multi_scale_loss(network(images), labels)
            for scale, loss in zip(SCALES, losses, strict=True):
                size = golden[f"mb{number}_labels_{scale}"].shape[1:]
                np.testing.assert_array_equal(resize_labels(labels, size), golden[f"mb{number}_labels_{scale}"])
                np.testing.assert_allclose(loss.detach(), golden[f"it{iteration}_mb{number}_loss_{scale}"], rtol=1e-4)
            part = output["loss"] / solver.iter_size
            np.testing.assert_allclose(part.detach(), golden[f"it{iteration}_mb{number}_loss_scaled"], rtol=1e-4)
            part.backward()
            total += part.item()
            if iteration == 1 and number == 0:
                _compare_norms(golden, "gradnorm_mb0/", parameters)
        np.testing.assert_allclose(total, golden[f"it{iteration}_loss"], rtol=1e-4)
        _compare_norms(golden, f"it{iteration}_gradnorm/", parameters)
        optimizer.step()
        for key in (k for k in golden.files if k.startswith(f"it{iteration}_delta/") and ".bn." not in k):
            name = key.partition("/")[2]
            delta = (parameters[name].detach() - start[name]).flatten()[:8]
            np.testing.assert_allclose(delta, golden[key], rtol=1e-2, atol=1.2e-8)
        rates = [_rate(solver, iteration + 1) * group["lr_scale"] for group in optimizer.param_groups]
        np.testing.assert_allclose(rates, golden[f"it{iteration}_lr_after"], rtol=1e-12)
        mean = network.state_dict()["base.layer1.conv1.bn.running_mean"][:8]
        np.testing.assert_allclose(mean, golden[f"it{iteration}_rm"], rtol=1e-6)


def _compare_norms(golden: "np.lib.npyio.NpzFile", prefix: str, parameters: dict[str, torch.nn.Parameter]) -> None:
    # Normalisation is frozen here and has no gradient; the published one had one that nothing used.
    keys = [key for key in golden.files if key.startswith(prefix) and ".bn." not in key]
    assert keys
    for key in keys:
        gradient = parameters[key.partition("/")[2]].grad
        assert gradient is not None
        np.testing.assert_allclose(gradient.norm(), golden[key], rtol=1e-3)


def test_rates_equal_published() -> None:
    golden = np.load(GOLDEN / "poly_lr.npz")
    solver, factors = SolverConfig(), np.array([1, 10, 20])
    used = [_rate(solver, t) * factors for t in range(1, 51)]
    np.testing.assert_allclose(used, golden["lr_used_first50"], rtol=1e-14)
    logged = [_rate(solver, t + 1) * factors for t in range(1, 51)]
    np.testing.assert_allclose(logged, golden["lr_logged_first50"], rtol=1e-14)
    for iteration, row, after in zip(golden["iters"].tolist(), golden["lr_used_at"], golden["lr_logged_at"], strict=True):
        np.testing.assert_allclose(_rate(solver, iteration) * factors, row, rtol=1e-14)
        np.testing.assert_allclose(_rate(solver, iteration + 1) * factors, after, rtol=1e-14)


def test_warm_up_rises_to_the_schedule() -> None:
    solver = SolverConfig()
    assert _rate(solver, 1, warmup=4) == pytest.approx(solver.lr / 4)
    assert _rate(solver, 4, warmup=4) == _rate(solver, 4)


def test_the_averaged_loss_equals_published() -> None:
    golden = np.load(GOLDEN / "moving_average.npz")
    means = RunningMeans(ALONE, int(golden["window"]))
    for value, average in zip(golden["values"], golden["average"], strict=True):
        means.add({"loss": torch.tensor(float(value))}, 1.0, 1)
        np.testing.assert_allclose(means.read()["loss"], average, rtol=1e-6)


def test_a_borrowed_mini_batch_counts_nothing() -> None:
    module = LossModule(build(), balanced=False, reduce_counts=lambda counts: counts).train()
    batch = {"images": torch.zeros(1, 3, 65, 65), "labels": torch.ones(1, 65, 65, dtype=torch.long)}
    assert module({**batch, "share": 1.0})["loss"] > 0
    assert module({**batch, "share": 0.0})["loss"] == 0


def test_parameter_groups_are_the_published_ones() -> None:
    cfg = DeepLabConfig()
    with torch.device("meta"):
        network = build_deeplab(cfg)
    groups = segmentation_groups(network, cfg.solver.weight_decay)
    assert [(len(g["params"]), sum(p.numel() for p in g["params"])) for g in groups] == [
        (104, 42_394_816),
        (4, 1_548_288),
        (4, 84),
    ]
    assert [(g["lr_scale"], g["weight_decay"]) for g in groups] == [(1.0, 5e-4), (10.0, 5e-4), (20.0, 0.0)]


def test_the_fov_head_is_trained_unless_told_otherwise() -> None:
    cfg = DeepLabConfig()
    cfg.model.name = "DeepLabV1_ResNet101_MSC"
    with torch.device("meta"):
        network = build_deeplab(cfg)
    assert [len(g["params"]) for g in segmentation_groups(network, cfg.solver.weight_decay)] == [104, 3, 3]
    assert [len(g["params"]) for g in segmentation_groups(network, cfg.solver.weight_decay, untrained_fov=True)] == [
        104,
        0,
        0,
    ]
    cfg.model.name = "DeepLabV2_ResNet101_MSC"
    with torch.device("meta"):
        other = build_deeplab(cfg)
    with pytest.raises(UserError, match="untrained_fov"):
        segmentation_groups(other, cfg.solver.weight_decay, untrained_fov=True)
