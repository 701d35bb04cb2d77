"""The project's own training step, called the way its training program does."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from configs.schema import TrainConfig
from models.cam_net import CamNetwork
from models.l2g import L2GSettings, Transfer
from models.layers.lean import training_format
from models.method import Phase, interleaved_groups
from utils.runtime.processes import Dist, StopRequest
from utils.training.optim import Schedule, build_optimizer
from utils.training.plan import Plan, Span
from utils.training.state import TrainState
from utils.training.trainer import Course, Trainer, to_device


def relative_difference(value: Tensor, reference: Tensor) -> float:
    """Return the largest absolute difference over the reference's largest absolute value."""
    value, reference = value.detach().float(), reference.detach().float()
    return float((value - reference).abs().max() / reference.abs().max().clamp_min(torch.finfo(torch.float32).tiny))


class ProjectStep:
    """The published VOC configuration on one batch.

    Args:
        global_net: trained in place.
        local_net: likewise.
        batch: see `benchmarks.l2g_inputs.make_batch`.
        crop_size: side of a local view, pixels.
        device: where the networks are.
        precision: see `utils.runtime.device.autocast_for`.
    """

    def __init__(
        self,
        global_net: CamNetwork,
        local_net: CamNetwork,
        batch: Mapping[str, Tensor],
        crop_size: int,
        device: torch.device,
        precision: str,
    ) -> None:
        self.networks = [n.to(memory_format=training_format(n, device)) for n in (global_net, local_net)]
        model = Transfer(global_net, local_net, L2GSettings(crop_size=crop_size))
        train, images = TrainConfig(), len(batch["labels"])
        optimizer = build_optimizer(
            interleaved_groups([n.parameter_groups() for n in self.networks], train.lr_head_factor),
            kind=train.optimizer,
            lr=train.lr,
            weight_decay=train.weight_decay,
            momentum=train.momentum,
            nesterov=train.nesterov,
        )
        plan = Plan(images, images, 1, False, 0, [Span(Phase("benchmark", 0, 1, train.lr), 0, 1)])
        course = Course(
            plan=plan, schedule=Schedule("step"), dataset=[], collate=None, workers=0, seed=0, precision=precision,  # type: ignore[arg-type]
            trains_norm=False, model_dir=Path(), log_dir=Path(), log_every=0, images_every=0, save_every=0, mean=(), std=(),
        )  # fmt: skip
        state = TrainState({}, optimizer, {})
        place = Dist(0, 1, 0, device)
        self.trainer = Trainer(cast(Any, model), course, state, place, StopRequest(), logging.getLogger("benchmark"))
        self.trainer.module = model.train()
        self.optimizer = optimizer
        self.batch: dict[str, Any] = {**batch, "id": [f"image_{i}" for i in range(images)], "share": 1.0}

    def step(self) -> dict[str, Tensor]:
        """Take one step; returns its losses."""
        batch = to_device(self.batch, self.trainer.place.device)
        self.trainer.state.position = 0
        output = self.trainer.backward(batch, window=1, steps=True)
        self.trainer.state.position = 1
        self.trainer.step(output["loss"], batch["id"])
        losses: dict[str, Tensor] = output["losses"]
        return losses

    def gradients(self, network: int) -> dict[str, Tensor]:
        """Return what the optimiser saw in the first step (gradient plus decay) by published name; 0 is the global network."""
        named = self.networks[network].to_published(dict(self.networks[network].named_parameters()))
        state = self.optimizer.state
        return {name: state[p]["momentum_buffer"] for name, p in named.items() if "momentum_buffer" in state.get(p, {})}
