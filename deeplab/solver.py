"""Optimiser groups and the poly schedule of DeepLab v2."""

from collections.abc import Iterator

import torch
from torch import nn

from configs.deeplab_schema import SolverConfig
from deeplab.multi_scale import MultiScale
from deeplab.network import DeepLab
from utils.errors import UserError

HEAD_WEIGHTS_FACTOR, HEAD_BIASES_FACTOR = 10.0, 20.0
FOV = "fov"


def build_optimizer(network: MultiScale, solver: SolverConfig, *, untrained_fov: bool = False) -> torch.optim.Optimizer:
    """Build the optimiser over the published groups: trunk 1x, head weights 10x, head biases 20x without decay.

    Trainable normalisation (model.freeze_bn=false, or trunks with LayerNorm) is a further group, 1x without decay.

    Args:
        network: to train; its base is a `DeepLab`.
        solver: rates, momentum, decay.
        untrained_fov: leave the `fov` head out, as the published program did by mistake: it then keeps its random start.

    Raises:
        UserError: for `untrained_fov` on a network without that head.
    """
    base = network.base
    if not isinstance(base, DeepLab):
        raise TypeError(f"expected DeepLab, got {type(base)}")
    if untrained_fov and base.head_name != FOV:
        raise UserError("train.untrained_fov is for DeepLabV1_ResNet101_MSC, whose head is named fov; set it to false")
    head = [] if untrained_fov else list(base.head.named_parameters())
    trunk = [child for name, child in base.named_children() if name != base.head_name]
    norms = [p for module in trunk for p in _norm_parameters(module)]
    held = {id(p) for p in norms}
    rows: list[tuple[list[nn.Parameter], float, float]] = [
        ([p for m in trunk for p in m.parameters() if p.requires_grad and id(p) not in held], 1.0, solver.weight_decay),
        ([p for name, p in head if name.endswith("weight")], HEAD_WEIGHTS_FACTOR, solver.weight_decay),
        ([p for name, p in head if name.endswith("bias")], HEAD_BIASES_FACTOR, 0.0),
    ]
    if norms:
        rows.append((norms, 1.0, 0.0))
    groups = [{"params": p, "lr": solver.lr * f, "lr_scale": f, "weight_decay": decay} for p, f, decay in rows]
    fused = all(p.is_cuda for p in network.parameters())
    if solver.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=solver.lr, fused=fused)
    return torch.optim.SGD(groups, lr=solver.lr, momentum=solver.momentum, fused=fused)


def learning_rate(solver: SolverConfig, iteration: int, warmup: int = 0) -> float:
    """Return the base rate of an optimiser step: base * (1 - done / T)^power, `done` a multiple of `lr_decay`.

    A pure function of the position, so that a resumed run has the rates of an uninterrupted one.

    Args:
        solver: base rate, T = iter_max, power and step of the schedule.
        iteration: 1-based; beyond iter_max the rate is 0.
        warmup: steps of linear warm-up (published: none).
    """
    done = (iteration - 1) // solver.lr_decay * solver.lr_decay
    rate = float(solver.lr * (1 - min(done, solver.iter_max) / solver.iter_max) ** solver.poly_power)
    return rate * min(1.0, iteration / warmup) if warmup else rate


def _norm_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    for child in module.modules():
        if isinstance(child, kinds):
            yield from (p for p in child.parameters(recurse=False) if p.requires_grad)
