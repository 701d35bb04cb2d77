"""Geometry of the published training views, and the way from PIL images to tensors."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor

from configs.deeplab_schema import ChannelsConfig, ImageConfig
from utils.data.images import MAX_GREY, read_image

Pixels = NDArray[np.uint8]

_HUE_SCALE, _HUE_LEVELS = 255, 256
_ENHANCERS = {"brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "saturation": ImageEnhance.Color}


@dataclass(frozen=True)
class ColorJitter:
    """Half-ranges of the random factors: brightness, contrast and saturation around 1, hue (in turns) around 0.

    A component whose half-range is 0 is left out: nothing is drawn for it.
    """

    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.1

    def draw(self, rng: np.random.RandomState) -> list[tuple[str, float]]:
        """Return (operation, factor) pairs in the order to apply them.

        Draws, as published: the factors of brightness, contrast, saturation and hue, then a shuffle of the operations.
        """
        operations = []
        for name in _ENHANCERS:
            half_range = getattr(self, name)
            if half_range > 0:
                operations.append((name, rng.uniform(max(0.0, 1 - half_range), 1 + half_range)))
        if self.hue > 0:
            operations.append(("hue", rng.uniform(-self.hue, self.hue)))
        order = list(range(len(operations)))
        if order:
            rng.shuffle(order)
        return [operations[i] for i in order]

    def __call__(self, image: Image.Image, rng: np.random.RandomState) -> Pixels:
        """Return the pixels (H, W, 3) of `image` (RGB) with one draw applied."""
        return apply_jitter(image, self.draw(rng))


def apply_jitter(image: Image.Image, operations: Sequence[tuple[str, float]]) -> Pixels:
    """Return an RGB image, (H, W, 3), with ("brightness" | "contrast" | "saturation" | "hue", factor) applied by Pillow."""
    for name, factor in operations:
        image = turn_hue(image, factor) if name == "hue" else _ENHANCERS[name](image).enhance(factor)
    return np.array(image)


def turn_hue(image: Image.Image, turns: float) -> Image.Image:
    """Turn the hue by `turns` in [-0.5, 0.5]; the hue byte moves by trunc(255 turns) and wraps, as published."""
    if not -0.5 <= turns <= 0.5:
        raise ValueError(f"expected a hue factor in [-0.5, 0.5], got {turns}")
    step = int(turns * _HUE_SCALE)
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([(level + step) % _HUE_LEVELS for level in range(_HUE_LEVELS)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


Size = tuple[int, int]
Box = tuple[int, int, int, int]

# The published guard against division by an empty saliency map.
_PEAK_EPSILON = 1e-10


def short_side_size(size: Size, short: int) -> Size:
    """Return (W, H) after scaling `size` (W, H) so that the short side is `short`; the other is rounded half to even."""
    width, height = size
    if width < height:
        return short, round(height * short / width)
    return round(width * short / height), short


def long_side_size(size: Size, long: int) -> Size:
    """Return (W, H) after scaling `size` (W, H) so that the long side is `long`; the other is rounded half to even."""
    return scaled_size(size, long / max(size))


def scaled_size(size: Size, scale: float) -> Size:
    """Return `size` (W, H) times `scale`, rounded half to even, at least 1 pixel."""
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


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


AREA_TRIES = 10


def area_crop_box(rng: random.Random, size: Size, scale: Sequence[float], aspect: Sequence[float]) -> Box:
    """Return a random part (x1, y1, x2, y2) of an image by its share of the area and its shape (as torchvision draws it).

    Args:
        rng: draws share, shape, y and x; again, at most ten times, where the part would not fit.
        size: (W, H) of the image.
        scale: range of the share, in (0, 1].
        aspect: range of width over height, drawn on a log scale. Where no part fits: the whole picture, cut in the middle to
            the nearest allowed shape.
    """
    width, height = size
    for _ in range(AREA_TRIES):
        area = width * height * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            y, x = rng.randint(0, height - h), rng.randint(0, width - w)
            return x, y, x + w, y + h
    shape = min(max(width / height, aspect[0]), aspect[1])
    w, h = min(width, round(height * shape)), min(height, round(width / shape))
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h


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
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / MAX_GREY
    return planes.sub_(torch.tensor(mean)[:, None, None]).div_(torch.tensor(std)[:, None, None]).contiguous()


def saliency_tensor(saliency: Image.Image, norm: str) -> Tensor:
    """Return (1, H, W) float32 in [0, 1].

    Args:
        saliency: PIL L, the finished view.
        norm: "crop": divided by its maximum (published: a view with only faint saliency is blown up to 1, an empty one
            stays 0); "none": as it is.
    """
    levels = torch.from_numpy(np.array(saliency))[None].float() / MAX_GREY
    return levels / (levels.max() + _PEAK_EPSILON) if norm == "crop" else levels


def _offset(rng: random.Random, room: int) -> int:
    """Draw an offset in 0..room, or in room..0 when `room` is negative (the image is smaller than the crop)."""
    drawn = rng.randrange(abs(room) + 1)
    return drawn if room > 0 else -drawn


def read_pixels(path: Path, image: ImageConfig) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Return a picture as (H, W, 3) float32 grey levels in the network's channel order, and its (W, H)."""
    picture = read_image(path)
    pixels = np.asarray(picture)
    if image.order == "bgr":
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return pixels.astype(np.float32), picture.size


def to_input(pixels: NDArray[np.float32], image: ImageConfig) -> Tensor:
    """Subtract the mean, divide by the scale and return (3, H, W) float32."""
    mean, std = channels(image.mean, image.order), channels(image.std, image.order)
    planes = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel, plane in enumerate(planes):  # rows of a plane are long, rows of three channels are slow
        np.subtract(pixels[:, :, channel], mean[channel], out=plane)
        if std[channel] != 1:
            plane /= std[channel]
    return torch.from_numpy(planes)


def to_rgb(inputs: Tensor, image: ImageConfig) -> NDArray[np.uint8]:
    """Undo `to_input`: (3, H, W) network input to an (H, W, 3) RGB picture."""
    pixels = inputs.numpy().transpose(1, 2, 0) * channels(image.std, image.order) + channels(image.mean, image.order)
    picture = np.clip(np.rint(pixels), 0, MAX_GREY).astype(np.uint8)
    return np.ascontiguousarray(picture[:, :, ::-1]) if image.order == "bgr" else picture


def channels(values: ChannelsConfig, order: str) -> NDArray[np.float32]:
    """Return (3,) values in the network's channel order."""
    rgb = (values.r, values.g, values.b)
    return np.array(rgb[::-1] if order == "bgr" else rgb, np.float32)
