"""Training augmentation of DeepLab v2: random scale, crop, mirror, on BGR float images."""

import random
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from configs.deeplab_schema import IGNORE_LABEL

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
