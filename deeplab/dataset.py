"""Samples of the segmentation stage: augmented crops for training, whole images for testing."""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from configs.deeplab_schema import IGNORE_LABEL, DatasetConfig, ImageConfig
from utils.data.folder import check_files
from utils.data.images import read_label_map
from utils.data.lists import Item
from utils.data.samplers import Key, sample_rng
from utils.data.transforms import channels, read_pixels, to_input

MIRROR_CHANCE = 0.5

Floats = NDArray[np.float32]
Labels = NDArray[np.uint8]


class Draws(NamedTuple):
    """What was drawn for a sample."""

    scale: float
    top: int
    left: int
    mirror: float


def augment(
    image: Floats, labels: Labels, rng: random.Random, *, mean: Floats, crop: int, scales: list[float], base: int | None = None
) -> tuple[Floats, Labels, Draws]:
    """Scale, pad, crop and mirror one sample the published way.

    Draws, in this order: choice of the scale, top, left (both ends included, drawn even when there is one place only),
    mirror.

    Args:
        image: (H, W, 3) float32 grey levels.
        labels: (H, W).
        rng: what is drawn from.
        mean: (3,) colour of the padding, which becomes 0 once the mean is subtracted.
        crop: side of the result, pixels.
        scales: to choose from.
        base: long side the random scale is relative to, pixels (one resize does both); None: the image's own.

    Returns:
        image (crop, crop, 3) with the mean not yet subtracted, labels (crop, crop) padded with 255, draws.
    """
    height, width = labels.shape
    if base is not None:
        height, width = _long_side(height, width, base)
    scale = rng.choice(scales)
    height, width = int(height * scale), int(width * scale)
    image, labels = _resize(image, labels, height, width)
    image, labels = _pad(image, labels, crop, mean)
    top = rng.randint(0, image.shape[0] - crop)
    left = rng.randint(0, image.shape[1] - crop)
    image, labels = image[top : top + crop, left : left + crop], labels[top : top + crop, left : left + crop]
    mirror = rng.random()
    if mirror < MIRROR_CHANCE:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return image, labels, Draws(scale, top, left, mirror)


def _long_side(height: int, width: int, side: int) -> tuple[int, int]:
    if height > width:
        return side, int(side * width / height)
    return int(side * height / width), side


def _resize(image: Floats, labels: Labels, height: int, width: int) -> tuple[Floats, Labels]:
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
    picture = Image.fromarray(labels).resize((width, height), resample=Image.Resampling.NEAREST)
    return image, np.asarray(picture)


def _pad(image: Floats, labels: Labels, crop: int, mean: Floats) -> tuple[Floats, Labels]:
    """Pad at the bottom and on the right only."""
    down, right = max(0, crop - image.shape[0]), max(0, crop - image.shape[1])
    if not down and not right:
        return image, labels
    padded = cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_CONSTANT, value=mean.tolist())
    return np.asarray(padded, np.float32), np.pad(labels, ((0, down), (0, right)), constant_values=IGNORE_LABEL)


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
        pixels, size = read_pixels(item.image, image)
        labels = read_labels(item, self.dataset.num_classes, size)
        pixels, labels, _ = augment(
            pixels, labels, rng,
            mean=channels(image.mean, image.order), crop=image.size.train, scales=self.dataset.scales, base=image.size.base,
        )  # fmt: skip
        return {"images": to_input(pixels, image), "labels": torch.from_numpy(labels.astype(np.int64)), "id": item.image_id}


def read_labels(item: Item, num_classes: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an item's label map (H, W), checked for size and values."""
    if item.labels is None:
        raise ValueError(f"{item.image_id} has no labels")
    return read_label_map(item.labels, num_classes, size, key="dataset.n_classes")


def check_items(items: Sequence[Item]) -> None:
    """Check that all files are there, with one listing per folder.

    Raises:
        UserError: naming the first missing ones.
    """
    check_files([item.image for item in items], "image", "dataset.image_dir")
    check_files([item.labels for item in items if item.labels], "label map", "dataset.label_dir")
