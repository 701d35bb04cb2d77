"""Phases of L2G: which epochs classify, and the rate each step gets."""

import pytest
import torch

from configs.schema import Config
from models.l2g import CLASSIFICATION, L2G, TRANSFER
from scripts.train import build_schedule
from tests.tiny_data import tiny_config
from utils.training.plan import Plan, Span


def _plan(cfg: Config, images: int) -> Plan:
    with torch.device("meta"):
        phases = L2G(cfg).phases()
    per_epoch = -(-images // cfg.train.batch_size)
    spans = [Span(phase, phase.start * per_epoch, phase.end * per_epoch) for phase in phases]
    return Plan(images, cfg.train.batch_size, cfg.train.iter_size, False, 0, spans)


def _rate(cfg: Config, plan: Plan, epoch: int, batch: int) -> float:
    position = epoch * plan.per_epoch + batch
    step, steps = plan.step(position)
    return build_schedule(cfg.train).rate(plan.span(position).phase.lr, epoch=epoch, step=step, steps=steps)


@pytest.fixture
def settings() -> list[str]:
    return ["train.schedule=poly", "train.poly_power=1.0", "train.lr=1.0", "train.batch_size=1"]


def test_transfer_restarts_the_schedule(tmp_path_factory: pytest.TempPathFactory, settings: list[str]) -> None:
    more = ["train.epochs=5", "train.classify_epochs=2", "train.classify_lr=10.0"]
    cfg = tiny_config(tmp_path_factory.mktemp("phases"), *settings, *more)
    plan = _plan(cfg, 4)
    first, second = plan.spans
    assert (first.phase.name, first.start, first.stop) == (CLASSIFICATION, 0, 8)
    assert (second.phase.name, second.start, second.stop, second.phase.fresh_optimizer) == (TRANSFER, 8, 20, True)
    assert _rate(cfg, plan, 0, 0) == pytest.approx(10.0)
    assert _rate(cfg, plan, 2, 0) == pytest.approx(1.0)
    assert _rate(cfg, plan, 4, 3) == pytest.approx(1 / 12)


def test_rate_counts_optimiser_steps(tmp_path_factory: pytest.TempPathFactory, settings: list[str]) -> None:
    cfg = tiny_config(tmp_path_factory.mktemp("phases"), *settings, "train.epochs=1", "train.iter_size=2")
    plan = _plan(cfg, 5)
    assert [_rate(cfg, plan, 0, b) for b in range(5)] == pytest.approx([1, 1, 2 / 3, 2 / 3, 1 / 3])


def test_transfer_starts_from_the_classifier(tmp_path_factory: pytest.TempPathFactory) -> None:
    method = L2G(tiny_config(tmp_path_factory.mktemp("phases"), "train.classify_epochs=1"))
    key = "head.classifier.weight"
    assert not torch.equal(method.global_net.state_dict()[key], method.local_net.state_dict()[key])
    method.begin(method.phases()[1])
    assert torch.equal(method.global_net.state_dict()[key], method.local_net.state_dict()[key])
