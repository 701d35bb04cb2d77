"""Loading images at several scales in batches of one size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from configs.schema import CamConfig, DataConfig
from utils.dataset_files import image_path
from utils.datasets import MultiScaleDataset
from utils.size_batches import image_batches


@dataclass
class SizedBatch:
    """B images of one `size` (H, W): `scales` holds a (B, 3, h_s, w_s) tensor per scale."""

    ids: list[str]
    classes: list[tuple[int, ...]]
    size: tuple[int, int]
    scales: list[Tensor]

    def pin_memory(self) -> "SizedBatch":
        """Called by the loader on CUDA machines."""
        self.scales = [scale.pin_memory() for scale in self.scales]
        return self


def build_loader(
    data: DataConfig, cam: CamConfig, classes: Mapping[str, tuple[int, ...]], *, pin_memory: bool
) -> DataLoader[SizedBatch]:
    """Return a loader of `SizedBatch` over the images of `classes` (id -> present classes), `cam.batch_size` at most in each.

    Raises:
        UserError: when an image is missing, or unreadable where sizes are needed to form batches; others when they are read.
    """
    batches = image_batches([image_path(data, image_id) for image_id in classes], cam.batch_size)
    return DataLoader(
        MultiScaleDataset(data, cam.scales, classes),  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=min(data.workers, len(batches)),
        pin_memory=pin_memory,
    )


def _collate(items: Sequence[Any]) -> SizedBatch:
    return SizedBatch(
        ids=[item["id"] for item in items],
        classes=[tuple(item["classes"]) for item in items],
        size=tuple(items[0]["size"]),
        scales=[torch.stack(views) for views in zip(*(item["scales"] for item in items), strict=True)],
    )
