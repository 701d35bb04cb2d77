"""Loading images at several scales in batches of one size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from configs.schema import CamConfig, DataConfig
from utils.dataset_files import image_path
from utils.datasets import MultiScaleDataset
from utils.errors import UserError
from utils.images import image_size
from utils.size_batches import batches_by_size


@dataclass
class SizedBatch:
    """B images of one `size` (H, W): `scales` holds a (B, 3, h_s, w_s) tensor per scale.

    `error` is what was wrong with an image's file; the batch then holds nothing else. (Raised in a loader process it would
    reach the user as a stack trace.)
    """

    ids: list[str] = field(default_factory=list)
    classes: list[tuple[int, ...]] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    scales: list[Tensor] = field(default_factory=list)
    error: UserError | None = None

    def pin_memory(self) -> "SizedBatch":
        """Called by the loader on CUDA machines."""
        self.scales = [scale.pin_memory() for scale in self.scales]
        return self


def build_loader(
    data: DataConfig, cam: CamConfig, classes: Mapping[str, tuple[int, ...]], *, pin_memory: bool
) -> DataLoader[SizedBatch]:
    """Return a loader of `SizedBatch` over the images of `classes` (id -> present classes), `cam.batch_size` at most in each.

    Raises:
        UserError: when an image is missing, or unreadable where sizes are needed to form batches.
    """
    dataset = MultiScaleDataset(data, cam.scales, classes)
    if cam.batch_size > 1:
        batches = batches_by_size((image_size(image_path(data, image_id)) for image_id in classes), cam.batch_size)
    else:
        batches = [[index] for index in range(len(classes))]
    return DataLoader(
        _Guarded(dataset),
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=min(data.workers, len(batches)),
        pin_memory=pin_memory,
    )


class _Guarded(Dataset[Any]):
    """Hands a user's mistake over as a value instead of raising it."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except UserError as error:
            return error


def _collate(items: Sequence[Any]) -> SizedBatch:
    errors = [item for item in items if isinstance(item, UserError)]
    if errors:
        return SizedBatch(error=errors[0])
    return SizedBatch(
        ids=[item["id"] for item in items],
        classes=[tuple(item["classes"]) for item in items],
        size=tuple(items[0]["size"]),
        scales=[torch.stack(views) for views in zip(*(item["scales"] for item in items), strict=True)],
    )
