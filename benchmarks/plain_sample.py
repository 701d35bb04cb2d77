"""The published VOC training sample, written straight from its description: PIL and torchvision, the whole picture resized."""

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torchvision.transforms import functional as TF

SHORT, SIDE, CROP, PATCHES = 512, 448, 320, 6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPREAD, HUE_SPREAD = 0.3, 0.1
ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def load_sample(
    image_path: Path,
    saliency_path: Path,
    draws: np.random.RandomState,
    offsets: random.Random,
    sizes: tuple[int, int, int] = (SHORT, SIDE, CROP),
) -> dict[str, Tensor]:
    """Return images (3, side, side), saliency (1, side, side) and boxes (6, 4) of one picture.

    Args:
        image_path: JPEG.
        saliency_path: 8-bit PNG of the same size.
        draws: NumPy's stream: boxes, colours.
        offsets: Python's stream: the crop.
        sizes: short side, side of the view and of a crop, pixels.
    """
    short, side, crop = sizes
    room = side - crop
    corners = [(0, 0), (0, room), (room, 0), (room, room)]
    corners += [tuple(draws.randint(0, room, size=2)[::-1]) for _ in range(PATCHES - len(corners))]
    image, saliency = Image.open(image_path).convert("RGB"), Image.open(saliency_path).convert("L")
    width, height = image.size
    size = (short, round(height * short / width)) if width < height else (round(width * short / height), short)
    image, saliency = image.resize(size, Image.Resampling.BICUBIC), saliency.resize(size, Image.Resampling.NEAREST)
    x = offsets.randrange(size[1] - side + 1)
    y = offsets.randrange(size[0] - side + 1)
    image, saliency = (picture.crop((x, y, x + side, y + side)) for picture in (image, saliency))
    values = TF.normalize(TF.to_tensor(_jitter(image, draws)), MEAN, STD)
    salient = TF.to_tensor(saliency)
    boxes = torch.tensor([[a, b, a + crop, b + crop] for a, b in corners])
    return {"images": values, "saliency": salient / (salient.max() + 1e-10), "boxes": boxes}


def _jitter(image: Image.Image, draws: np.random.RandomState) -> Image.Image:
    factors = [draws.uniform(1 - SPREAD, 1 + SPREAD) for _ in ENHANCERS]
    turn = int(draws.uniform(-HUE_SPREAD, HUE_SPREAD) * 255)
    order = list(range(len(ENHANCERS) + 1))
    draws.shuffle(order)
    for step in order:
        if step < len(ENHANCERS):
            image = ENHANCERS[step](image).enhance(factors[step])
            continue
        hue, saturation, value = image.convert("HSV").split()
        levels = np.array(hue, dtype=np.uint8) + np.uint8(turn % 256)
        image = Image.merge("HSV", (Image.fromarray(levels), saturation, value)).convert("RGB")
    return image
