"""Optimiser groups and learning-rate schedules of the published first stage."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from configs.schema import TrainConfig

# Published convention (from OAA): biases learn at twice the rate of their weights.
BIAS_FACTOR = 2.0
GROUP_ORDER = ("pretrained_weights", "pretrained_biases", "head_weights", "head_biases", "norm")


def build_optimizer(groups: Iterable[Mapping[str, list[nn.Parameter]]], config: TrainConfig) -> torch.optim.Optimizer:
    """Build SGD or AdamW over the parameter groups of one or more networks.

    Args:
        groups: for each network, the lists named in `GROUP_ORDER` (`norm` may be absent). Groups of the networks are
            interleaved as published: pretrained weights of all networks, then their biases, and so on.
        config: rates, momentum and decay. Factors are 1, 2, `lr_head_factor` and twice that; `norm` has 1 and no decay.

    Returns:
        The optimiser; each of its groups carries `lr_scale` (times `train.lr`) for `set_learning_rate`.
    """
    head = config.lr_head_factor
    scales = {
        "pretrained_weights": 1.0,
        "pretrained_biases": BIAS_FACTOR,
        "head_weights": head,
        "head_biases": BIAS_FACTOR * head,
        "norm": 1.0,
    }
    networks = list(groups)
    rows = []
    for name in GROUP_ORDER:
        if name == "norm" and not any(network.get(name) for network in networks):
            continue
        decay = {"weight_decay": 0.0} if name == "norm" else {}
        scale = scales[name]
        rows += [{"params": n.get(name, []), "lr": config.lr * scale, "lr_scale": scale, **decay} for n in networks]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(rows, lr=config.lr, weight_decay=config.weight_decay)
    nesterov = config.nesterov and config.momentum > 0
    return torch.optim.SGD(
        rows,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=nesterov,
        fused=_all_on_cuda(rows) or None,
    )


def _all_on_cuda(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether one kernel can update everything."""
    return all(parameter.is_cuda for row in rows for parameter in row["params"])


def learning_rate(config: TrainConfig, *, epoch: int, step: int, steps: int) -> float:
    """Return the base learning rate of one optimiser step; a pure function of the position, so resuming is exact.

    Args:
        config: `lr` (or `classify_lr` in the first `classify_epochs`), `schedule` and its constants.
        epoch: 0-based epoch of the whole run (step schedule).
        step: 0-based optimiser step of the present phase (poly schedule, warm-up).
        steps: optimiser steps of the present phase.
    """
    classifying = epoch < config.classify_epochs
    rate = config.classify_lr if classifying and config.classify_lr > 0 else config.lr
    if config.schedule == "poly":
        rate *= (1 - min(step, steps - 1) / steps) ** config.poly_power
    else:
        rate *= config.decay_factor ** sum(epoch >= e for e in config.decay_epochs)
    if step < config.warmup_iters:
        rate *= (step + 1) / config.warmup_iters
    return rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its `lr_scale` times `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


@dataclass(frozen=True)
class Phase:
    """Epochs `start` to `end` - 1 of a run."""

    start: int
    end: int
    classifies: bool

    def rate(self, train: TrainConfig, *, epoch: int, batch: int, batches: int) -> float:
        """Return the base learning rate of the optimiser step that ends with this batch.

        Args:
            train: schedule and its constants.
            epoch: 0-based, of the whole run.
            batch: 0-based, in the epoch.
            batches: of the epoch.
        """
        steps = -(-batches // train.iter_size)
        step = (epoch - self.start) * steps + batch // train.iter_size
        return learning_rate(train, epoch=epoch, step=step, steps=(self.end - self.start) * steps)


def phase_of(train: TrainConfig, epoch: int) -> Phase:
    """Return the phase epoch `epoch` (0-based) belongs to."""
    if epoch < train.classify_epochs:
        return Phase(train.first_epoch, train.classify_epochs, classifies=True)
    return Phase(max(train.first_epoch, train.classify_epochs), train.epochs, classifies=False)
