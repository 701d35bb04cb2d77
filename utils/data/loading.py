"""The data set of CAM inference: each image at several scales."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from configs.cam_schema import CamConfig
from configs.deeplab_schema import ImageConfig
from configs.schema import DataConfig
from utils.data.folder import DataFolder
from utils.data.images import image_size, read_image
from utils.data.items import Item
from utils.data.transforms import read_pixels, scaled_size, to_input, to_normalised_tensor
from utils.runtime.parallel import start_loader_worker


class MultiScaleDataset(Dataset[dict[str, Any]]):
    """Images at several scales, PIL bicubic, sides rounded half to even as published; mirrored copies are made later.

    An item holds "id": str; "size": (H, W) of the image; "classes": its class indices, ascending; "scales": one
    (3, h, w) float32 normalised RGB tensor a scale; "alike": how many images of the list have this size.

    Args:
        data: where the images are, and their mean and std.
        scales: factors on both sides, > 0.
        labels: id -> class indices, in the order to walk.
        input_size: (H, W) that images are resized to before, bilinear, whatever their aspect; empty: their own.
        alike: of each image, how many have its size; empty where nobody asks.

    Raises:
        UserError: when images are missing (at once) or damaged (when read).
    """

    def __init__(
        self,
        data: DataConfig,
        scales: Sequence[float],
        labels: Mapping[str, tuple[int, ...]],
        input_size: Sequence[int] = (),
        alike: Sequence[int] = (),
    ) -> None:
        self.data, self.scales, self.labels, self.input_size = data, tuple(scales), labels, tuple(input_size)
        self.ids = list(labels)
        self.alike = alike or [0] * len(self.ids)
        self.folder = DataFolder.of(data, data.infer_list)
        self.folder.check_images(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return item `index` of the list."""
        image_id = self.ids[index]
        image = read_image(self.folder.image(image_id))
        size = (image.height, image.width)
        if self.input_size:
            image = image.resize((self.input_size[1], self.input_size[0]), Image.Resampling.BILINEAR)
        scaled = [resize_scaled(image, scale) for scale in self.scales]
        return {
            "id": image_id,
            "size": size,
            "alike": self.alike[index],
            "classes": self.labels[image_id],
            "scales": [to_normalised_tensor(view, self.data.mean, self.data.std) for view in scaled],
        }


def resize_scaled(image: Image.Image, scale: float) -> Image.Image:
    """Return `image` with both sides multiplied by `scale`, rounded half to even, at least 1 pixel."""
    size = scaled_size(image.size, scale)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def image_batches(paths: Sequence[Path], batch_size: int, *, counts: bool) -> tuple[list[list[int]], list[int]]:
    """Return `batches_by_size` of image files and, with `counts`, of each how many have its size.

    With a `batch_size` of 1 and without counts none is opened. Raises UserError for a bad one.
    """
    if batch_size == 1 and not counts:
        return [[index] for index in range(len(paths))], []
    sizes = [image_size(path) for path in paths]
    of_size = Counter(sizes)
    return batches_by_size(sizes, batch_size), [of_size[size] for size in sizes]


def batches_by_size(sizes: Iterable[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Group indices by size into batches of at most `batch_size`.

    Args:
        sizes: (W, H) of each image, pixels.
        batch_size: >= 1.

    Returns:
        lists of indices; each index once; sizes in order of first appearance, indices ascending within a size.
    """
    buckets: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        buckets.setdefault(size, []).append(index)
    return [batch for bucket in buckets.values() for batch in _cut(bucket, batch_size)]


def _cut(indices: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    for start in range(0, len(indices), batch_size):
        yield list(indices[start : start + batch_size])


@dataclass
class SizedBatch:
    """B images of one `size` (H, W), which `alike` have: `scales` holds a (B, 3, h_s, w_s) tensor per scale."""

    ids: list[str]
    classes: list[tuple[int, ...]]
    size: tuple[int, int]
    scales: list[Tensor]
    alike: int = 0

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
    folder = DataFolder.of(data, data.infer_list)
    if cam.input_size and cam.size == "network":  # all alike
        batches, alike = batches_by_size([(1, 1)] * len(classes), cam.batch_size), [len(classes)] * len(classes)
    else:
        batches, alike = image_batches([folder.image(name) for name in classes], cam.batch_size, counts=pin_memory)
    if cam.pad_size:  # the network sees one size
        alike = [len(classes)] * len(classes)
    return DataLoader(
        MultiScaleDataset(data, cam.scales, classes, cam.input_size, alike),  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=_collate,
        worker_init_fn=start_loader_worker,
        num_workers=min(data.workers, len(batches)),
        pin_memory=pin_memory,
    )


def _collate(items: Sequence[Any]) -> SizedBatch:
    return SizedBatch(
        ids=[item["id"] for item in items],
        classes=[tuple(item["classes"]) for item in items],
        size=tuple(items[0]["size"]),
        scales=[torch.stack(views) for views in zip(*(item["scales"] for item in items), strict=True)],
        alike=items[0]["alike"],
    )


@dataclass
class ImageBatch:
    """Items of one size, which `alike` have, and their network inputs (B, 3, H, W)."""

    items: list[Item]
    images: Tensor
    alike: int = 0

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
    batches, alike = image_batches([item.image for item in items], batch_size, counts=pin_memory)
    return DataLoader(
        _Images(items, image, alike or [0] * len(items)),  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=_collate_images,
        worker_init_fn=start_loader_worker,
        num_workers=min(workers, len(batches)),
        pin_memory=pin_memory,
    )


class _Images(Dataset[tuple[Item, Tensor, int]]):
    def __init__(self, items: Sequence[Item], image: ImageConfig, alike: Sequence[int]) -> None:
        self.items, self.image, self.alike = items, image, alike

    def __getitem__(self, index: int) -> tuple[Item, Tensor, int]:
        """Return an item, its input, and how many have its size."""
        item = self.items[index]
        return item, to_input(read_pixels(item.image, self.image)[0], self.image), self.alike[index]


def _collate_images(entries: Sequence[tuple[Item, Tensor, int]]) -> ImageBatch:
    items, images, alike = zip(*entries, strict=True)
    return ImageBatch(list(items), torch.stack(images), alike[0])
