"""Samples of the segmentation stage: augmented crops for training, whole images for testing."""

import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from configs.deeplab_schema import ChannelsConfig, DatasetConfig, ImageConfig
from deeplab.augment import augment
from deeplab.lists import Item
from utils.classes import class_index
from utils.dataset_files import check_files
from utils.images import read_image, read_label_map
from utils.samplers import Key
from utils.seeding import sample_rng

Floats = NDArray[np.float32]
GREY_LEVELS = 255


class CropDataset(Dataset[dict[str, Any]]):
    """Training samples, addressed by (epoch, index); the same key always gives the same sample.

    An item holds "images" (3, S, S) float32, "labels" (S, S) int64 with 255 ignored, "id".

    Args:
        items: images with labels.
        dataset: scales and number of classes.
        image: mean, scale, channel order and crop side.
        seed: of the run.

    Raises:
        UserError: for missing files (at once), damaged or ill-fitting ones (when read).
    """

    def __init__(self, items: Sequence[Item], dataset: DatasetConfig, image: ImageConfig, seed: int) -> None:
        self.items, self.dataset, self.image, self.seed = items, dataset, image, seed
        check_items(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return sample `index` of the list as epoch `epoch` sees it; `key` is (epoch, index)."""
        epoch, index = key
        return self.load(index, sample_rng(self.seed, epoch, index).python)

    def load(self, index: int, rng: random.Random) -> dict[str, Any]:
        """Return sample `index`, its augmentation drawn from `rng`."""
        item, image = self.items[index], self.image
        pixels, size = read_pixels(item, image)
        labels = read_labels(item, self.dataset.n_classes, size)
        pixels, labels, _ = augment(
            pixels, labels, rng,
            mean=_channels(image.mean, image.order), crop=image.size.train, scales=self.dataset.scales, base=image.size.base,
        )  # fmt: skip
        return {"images": to_input(pixels, image), "labels": torch.from_numpy(labels.astype(np.int64)), "id": item.image_id}


def read_pixels(item: Item, image: ImageConfig) -> tuple[Floats, tuple[int, int]]:
    """Return a picture as (H, W, 3) float32 grey levels in the network's channel order, and its (W, H)."""
    picture = read_image(item.image)
    pixels = np.asarray(picture)
    if image.order == "bgr":
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return pixels.astype(np.float32), picture.size


def read_labels(item: Item, n_classes: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an item's label map (H, W), checked for size and values (background counts as one of `n_classes`)."""
    if item.labels is None:
        raise ValueError(f"{item.image_id} has no labels")
    return read_label_map(item.labels, class_index(n_classes), size)


def to_input(pixels: Floats, image: ImageConfig) -> Tensor:
    """Subtract the mean, divide by the scale and return (3, H, W) float32."""
    mean, std = _channels(image.mean, image.order), _channels(image.std, image.order)
    planes = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel, plane in enumerate(planes):  # rows of a plane are long, rows of three channels are slow
        np.subtract(pixels[:, :, channel], mean[channel], out=plane)
        if std[channel] != 1:
            plane /= std[channel]
    return torch.from_numpy(planes)


def to_rgb(inputs: Tensor, image: ImageConfig) -> NDArray[np.uint8]:
    """Undo `to_input`: (3, H, W) network input to an (H, W, 3) RGB picture."""
    pixels = inputs.numpy().transpose(1, 2, 0) * _channels(image.std, image.order) + _channels(image.mean, image.order)
    picture = np.clip(np.rint(pixels), 0, GREY_LEVELS).astype(np.uint8)
    return np.ascontiguousarray(picture[:, :, ::-1]) if image.order == "bgr" else picture


def check_items(items: Sequence[Item]) -> None:
    """Check that all files are there, with one listing per folder.

    Raises:
        UserError: naming the first missing ones.
    """
    check_files([item.image for item in items], "image", "dataset.image_dir")
    check_files([item.labels for item in items if item.labels], "label map", "dataset.label_dir")


def _channels(values: ChannelsConfig, order: str) -> Floats:
    rgb = (values.r, values.g, values.b)
    return np.array(rgb[::-1] if order == "bgr" else rgb, np.float32)
