"""Geometry of the published training views, and the way from PIL images to tensors."""

import functools
import random
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from utils.color_jitter import Pixels
from utils.strips import strips

Size = tuple[int, int]
Box = tuple[int, int, int, int]

LEVELS = 255
# The published guard against division by an empty saliency map.
_PEAK_EPSILON = 1e-10


def short_side_size(size: Size, short: int) -> Size:
    """Return (W, H) after scaling `size` (W, H) so that the short side is `short`; the other is rounded half to even."""
    width, height = size
    if width < height:
        return short, round(height * short / width)
    return round(width * short / height), short


def resize_short(image: Image.Image, short: int, resample: Image.Resampling) -> Image.Image:
    """Scale `image` so that its short side is `short` pixels."""
    return image.resize(short_side_size(image.size, short), resample)


def resized_crop(image: Image.Image, size: Size, box: Box, resample: Image.Resampling) -> Image.Image:
    """Return exactly `image.resize(size, resample).crop(box)`, sparing the columns outside the box their second pass.

    PIL interpolates along rows, then along columns. (Its own `resize(box=...)` would spare more, but it places samples in
    single precision, and levels then differ here and there from the published numbers.)

    Args:
        image: PIL L or RGB.
        size: (W, H) of the whole image once resized.
        box: (x1, y1, x2, y2) in it; what lies outside is 0 (black).
        resample: an interpolating PIL filter.
    """
    left, right = (min(max(x, 0), size[0]) for x in (box[0], box[2]))
    if left == right:
        return Image.new(image.mode, (box[2] - box[0], box[3] - box[1]))
    wide = image.resize((size[0], image.height), resample).crop((left, 0, right, image.height))
    return wide.resize((right - left, size[1]), resample).crop((box[0] - left, box[1], box[2] - left, box[3]))


def published_crop_box(rng: random.Random, size: Size, side: int) -> Box:
    """Return the crop (x1, y1, x2, y2) the published code takes: a random one with width and height swapped.

    x is drawn within the height and y within the width, so a landscape image is never seen right of x = height, and the
    view often reaches below the image (black there). A side not longer than the crop still costs its draw.

    Args:
        rng: draws x, then y.
        size: (W, H) of the image.
        side: of the crop, pixels.
    """
    width, height = size
    x, y = (_offset(rng, extent - side) for extent in (height, width))
    return max(x, 0), max(y, 0), max(x, 0) + side, max(y, 0) + side


def true_crop_box(rng: random.Random, size: Size, side: int) -> Box:
    """Return a uniformly random crop (x1, y1, x2, y2) inside an image of `size` (W, H).

    Where the image is smaller than the crop it is placed at random inside the crop: offsets are then negative.
    """
    x, y = (_offset(rng, extent - side) for extent in size)
    return x, y, x + side, y + side


def crop_with_padding(image: Image.Image, box: Box) -> Image.Image:
    """Cut `box` (x1, y1, x2, y2) out of `image`; what lies outside the image is 0 (black)."""
    return image.crop(box)


def draw_boxes(rng: np.random.RandomState, input_size: int, crop_size: int, patches: int, mode: str) -> Tensor:
    """Draw the local views of one image.

    Args:
        rng: draws (y, x) of each random view in turn.
        input_size: side of the global view, pixels.
        crop_size: side of a local view, pixels, at most `input_size`.
        patches: number K of local views; at least 4 with corners.
        mode: "corners": the four corners first (VOC); "random": none of them (COCO).

    Returns:
        (K, 4) int64 [x1, y1, x2, y2]. As published, a random offset never equals input_size - crop_size.
    """
    room = input_size - crop_size
    corners = [(0, 0), (0, room), (room, 0), (room, room)] if mode == "corners" else []
    offsets = torch.tensor(corners, dtype=torch.int64).reshape(-1, 2)
    drawn = [rng.randint(0, max(room, 1), size=2)[::-1].tolist() for _ in range(patches - len(corners))]
    offsets = torch.cat([offsets, torch.tensor(drawn, dtype=torch.int64).reshape(-1, 2)])
    return torch.cat([offsets, offsets + crop_size], dim=1)


def to_normalised_tensor(image: Image.Image | Pixels, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (3, H, W) float32: RGB in [0, 1] minus `mean`, divided by `std` (per channel)."""
    return _through_tables(np.asarray(image), [*_normalised_levels(tuple(mean), tuple(std))])


@functools.cache
def _normalised_levels(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """Return what each of the 256 levels becomes, a row a channel, (3, 256)."""
    levels = torch.arange(LEVELS + 1, dtype=torch.float32) / LEVELS
    return np.asarray((levels - torch.tensor(mean)[:, None]) / torch.tensor(std)[:, None])


def saliency_tensor(saliency: Image.Image, norm: str) -> Tensor:
    """Return (1, H, W) float32 in [0, 1].

    Args:
        saliency: PIL L, the finished view.
        norm: "crop": divided by its maximum (published: a view with only faint saliency is blown up to 1, an empty one
            stays 0); "none": as it is.
    """
    pixels = np.asarray(saliency)
    levels = torch.arange(LEVELS + 1, dtype=torch.float32).div_(LEVELS)
    if norm == "crop":
        levels /= levels[int(pixels.max())] + _PEAK_EPSILON
    return _through_tables(pixels, [levels.numpy()])


def _through_tables(pixels: Pixels, tables: Sequence[NDArray[np.float32]]) -> Tensor:
    """Return (C, H, W) float32: each channel of (H, W[, C]) pixels looked up in its table of 256 values."""
    tensor = torch.empty(len(tables), *pixels.shape[:2])
    row = 0
    for strip in strips(pixels):
        rows = slice(row, row := row + len(strip))
        for table, plane, out in zip(tables, cv2.split(strip), tensor.numpy(), strict=True):
            cv2.LUT(plane, table, dst=out[rows])
    return tensor


def _offset(rng: random.Random, room: int) -> int:
    """Draw an offset in 0..room, or in room..0 when `room` is negative (the image is smaller than the crop)."""
    drawn = rng.randrange(abs(room) + 1)
    return drawn if room > 0 else -drawn
