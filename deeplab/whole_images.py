"""Loading whole images in batches of one size."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from configs.deeplab_schema import ImageConfig
from deeplab.dataset import read_pixels, to_input
from deeplab.lists import Item
from utils.size_batches import image_batches


@dataclass
class ImageBatch:
    """Items of one size and their network inputs (B, 3, H, W)."""

    items: list[Item]
    images: Tensor

    def pin_memory(self) -> "ImageBatch":
        """Called by the loader on CUDA machines."""
        self.images = self.images.pin_memory()
        return self


def whole_images(
    items: Sequence[Item], image: ImageConfig, *, batch_size: int, workers: int, pin_memory: bool
) -> DataLoader[ImageBatch]:
    """Return a loader of `ImageBatch` over all items, each image once.

    Args:
        items: images to load.
        image: mean, scale and channel order.
        batch_size: images of one size per batch, at most.
        workers: loader processes.
        pin_memory: for CUDA.

    Raises:
        UserError: when an image is unreadable where sizes are needed to form batches; others when they are read.
    """
    batches = image_batches([item.image for item in items], batch_size)
    return DataLoader(
        _Images(items, image),  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=min(workers, len(batches)),
        pin_memory=pin_memory,
    )


class _Images(Dataset[tuple[Item, Tensor]]):
    def __init__(self, items: Sequence[Item], image: ImageConfig) -> None:
        self.items, self.image = items, image

    def __getitem__(self, index: int) -> tuple[Item, Tensor]:
        """Return an item and its input."""
        return self.items[index], to_input(read_pixels(self.items[index], self.image)[0], self.image)


def _collate(entries: Sequence[tuple[Item, Tensor]]) -> ImageBatch:
    return ImageBatch([item for item, _ in entries], torch.stack([image for _, image in entries]))
