"""Optimisers and learning rates of both stages; a rate is a pure function of the position, so that resuming is exact."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

OWN_KIND = "optimizer"


def build_optimizer(
    groups: Sequence[Mapping[str, Any]], *, kind: str, lr: float, weight_decay: float, momentum: float, nesterov: bool = False
) -> torch.optim.Optimizer:
    """Build SGD or AdamW.

    Args:
        groups: `params` (may be empty), `lr_scale` (times the base rate) and, where they are others than these, their own
            `weight_decay`, `momentum`, `optimizer` (as kind) and `fixed_lr` (a rate that no schedule changes).
        kind: sgd or adamw.
        lr: base learning rate.
        weight_decay: L2 penalty (sgd) or decoupled decay (adamw).
        momentum: of sgd.
        nesterov: of sgd, where there is momentum.
    """
    rows = [{**group, "lr": group.get("fixed_lr", lr * group["lr_scale"])} for group in groups]
    kinds = [row.get(OWN_KIND, kind) for row in rows]
    if len({*kinds}) > 1:
        parts = {
            name: build_optimizer(
                [{**row, OWN_KIND: name} for row, own in zip(groups, kinds, strict=True) if own == name],
                kind=name, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov,
            )
            for name in dict.fromkeys(kinds)
        }  # fmt: skip
        return SideBySide(parts, kinds)
    if kinds[0] == "adamw":
        return torch.optim.AdamW(rows, lr=lr, weight_decay=weight_decay)
    fused = _all_on_cuda(rows) or None
    nesterov = nesterov and momentum > 0
    return torch.optim.SGD(rows, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=fused)


class SideBySide(torch.optim.Optimizer):
    """Several optimisers as one: each steps the groups whose `optimizer` names it.

    Args:
        parts: name -> optimiser.
        kinds: whose turn it is, in the order that the groups shall have.
    """

    def __init__(self, parts: Mapping[str, torch.optim.Optimizer], kinds: Sequence[str]) -> None:
        waiting = {name: iter(part.param_groups) for name, part in parts.items()}
        self.parts = dict(parts)
        super().__init__([next(waiting[kind]) for kind in kinds], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step all of them; groups and states are looked up anew, as a checkpoint replaces both."""
        for name, part in self.parts.items():
            part.param_groups = [group for group in self.param_groups if group[OWN_KIND] == name]
            part.state = self.state
            part.step()


def _all_on_cuda(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether one kernel can update everything."""
    return all(parameter.is_cuda for row in rows for parameter in row["params"])


@dataclass(frozen=True)
class Schedule:
    """How the learning rate falls.

    Attributes:
        kind: poly: x (1 - t / T)^power; step: x factor at each of `epochs`.
        power: of poly.
        hold: poly: the rate changes every so many steps (published segmentation stage: 10).
        epochs: 0-based, of the whole run.
        factor: of step.
        to_zero: poly: beyond the last step the rate is 0, which the published segmentation stage logs; else it stays.
        warmup: optimiser steps of linear warm-up at each phase's beginning; 0 is none.
    """

    kind: str
    power: float = 0.9
    hold: int = 1
    epochs: Sequence[int] = ()
    factor: float = 0.1
    to_zero: bool = False
    warmup: int = 0

    def rate(self, lr: float, *, epoch: int, step: int, steps: int) -> float:
        """Return the base rate of one optimiser step.

        Args:
            lr: base rate of the phase.
            epoch: 0-based, of the whole run.
            step: 0-based, of the phase.
            steps: of the phase.
        """
        if self.kind == "poly":
            last = steps if self.to_zero else steps - 1
            rate = lr * (1 - min(step // self.hold * self.hold, last) / steps) ** self.power
        else:
            rate = lr * self.factor ** sum(epoch >= e for e in self.epochs)
        return rate * ((step + 1) / self.warmup) if step < self.warmup else rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its `lr_scale` times `rate`, or its `fixed_lr`."""
    for group in optimizer.param_groups:
        group["lr"] = group.get("fixed_lr", rate * group["lr_scale"])
