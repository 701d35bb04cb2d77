"""The project's own training step, called the way its training program does."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from configs.schema import TrainConfig
from models.cam_net import CamNetwork
from models.l2g import L2G, L2GOptions
from models.layers.cpu_convs import training_format
from utils.runtime.device import autocast_for
from utils.runtime.processes import Dist
from utils.training.optim import build_optimizer
from utils.training.trainer import train_batches


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
        self.model = L2G(global_net, local_net, L2GOptions(crop_size=crop_size))
        self.optimizer = build_optimizer([n.parameter_groups() for n in self.networks], TrainConfig())
        self.device, self.precision = device, precision
        self.images = len(batch["labels"])
        self.batch: dict[str, Any] = {**batch, "id": [f"image_{i}" for i in range(self.images)]}

    def step(self) -> dict[str, Tensor]:
        """Take one step; returns its losses."""
        losses: dict[str, Tensor] = {}

        def after_batch(index: int, batch: Mapping[str, Any], output: Mapping[str, Any], stepped: bool) -> bool:
            losses.update(output["losses"])
            return False

        train_batches(
            self.model,
            self.optimizer,
            [(0, self.batch)],
            place=Dist(0, 1, 0, self.device),
            autocast=lambda: autocast_for(self.precision, self.device),
            seed=0,
            epoch=0,
            batches_in_epoch=1,
            iter_size=1,
            global_size=lambda _: self.images,
            before_step=lambda _: None,
            after_batch=after_batch,
        )
        return losses

    def gradients(self, network: int) -> dict[str, Tensor]:
        """Return what the optimiser saw in the first step (gradient plus decay) by published name; 0 is the global network."""
        named = self.networks[network].to_published(dict(self.networks[network].named_parameters()))
        state = self.optimizer.state
        return {name: state[p]["momentum_buffer"] for name, p in named.items() if "momentum_buffer" in state.get(p, {})}
