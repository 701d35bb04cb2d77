"""Geometry of the published training views, and the way from PIL images to tensors."""

import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor

from configs.deeplab_schema import ChannelsConfig, ImageConfig
from utils.data.images import read_image

# Pixels of a strip; a float32 plane of it is 128 KiB. Also below the sizes from which OpenCV would start threads, which
# must not happen before loader processes fork.
STRIP_PIXELS = 2**15


def strips(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield views of consecutive rows of `pixels` (H, W, ...), about `STRIP_PIXELS` pixels each."""
    rows = max(1, STRIP_PIXELS // max(1, pixels.shape[1]))
    for first in range(0, len(pixels), rows):
        yield pixels[first : first + rows]


_HUE_LEVELS = 256
# Sextants of PIL's colour circle: hue byte h lies in sextant floor(6 h / 255), at the fractional part.
_SEXTANTS = 6
# Which of (largest, middle, smallest) red, green and blue are; bits: red >= green (1), green >= blue (2), red >= blue (4).
_RANKS = {7: (0, 1, 2), 5: (0, 2, 1), 6: (1, 0, 2), 2: (2, 0, 1), 1: (1, 2, 0), 0: (2, 1, 0)}


@dataclass(frozen=True)
class _Tables:
    """PIL's RGB -> HSV -> RGB, taken apart.

    Attributes:
        hue: uint8, index order << 16 | chroma << 8 | middle, where chroma is largest minus smallest channel and middle is
            middle minus smallest.
        depth: float32, index value << 8 | chroma: value times saturation, how far a channel can fall below the value.
        fall: for red, green, blue, float32 by hue byte: the share of the depth that channel falls.
    """

    hue: NDArray[np.uint8]
    depth: NDArray[np.float32]
    fall: tuple[NDArray[np.float32], ...]


def turn_hue(pixels: NDArray[np.uint8], shift: int) -> None:
    """Add `shift` (wrapping at 256) to PIL's hue byte of (H, W, 3) RGB pixels, in place."""
    tables = _tables()
    step = np.uint8(shift % _HUE_LEVELS)
    for strip in strips(pixels):
        _turn_strip(strip, step, tables)


def _turn_strip(rgb: NDArray[np.uint8], step: np.uint8, tables: _Tables) -> None:
    red, green, blue = cv2.split(rgb)
    high, low = cv2.max(red, green), cv2.min(red, green)
    middle = cv2.max(low, cv2.min(high, blue))
    value, low = cv2.max(high, blue), cv2.min(low, blue)
    chroma = cv2.subtract(value, low)
    order = (red >= blue).view(np.uint8)
    for bit in (green >= blue, red >= green):  # doubling by addition: NumPy's 8-bit shift is ten times slower
        order += order
        order += bit.view(np.uint8)
    # No index is out of range; mode="clip" spares NumPy the checking copy.
    hue = tables.hue.take(_packed(cv2.subtract(middle, low), chroma, order, np.zeros_like(order)), mode="clip")
    hue += step
    depth = tables.depth.take(_packed(chroma, value), mode="clip")
    # PIL rounds halves up.
    top = value.astype(np.float32)
    top += np.float32(0.5)
    channels = []
    for fall in tables.fall:
        level: Any = cv2.LUT(hue, fall)
        level *= depth
        np.subtract(top, level, out=level)
        channels.append(level.astype(np.uint8))
    cv2.merge(channels, rgb)


def _packed(*planes: Any) -> NDArray[np.signedinteger]:
    """Return one integer a pixel whose bytes are the uint8 planes, the first the lowest (2 or 4 planes)."""
    merged = np.asarray(cv2.merge(planes))
    return merged.view({2: "<u2", 4: "<i4"}[len(planes)])[..., 0]


@functools.cache
def _tables() -> _Tables:
    rows, columns = np.meshgrid(np.arange(_HUE_LEVELS), np.arange(_HUE_LEVELS), indexing="ij")
    hue = np.zeros((len(_RANKS) + 2, _HUE_LEVELS, _HUE_LEVELS), np.uint8)
    for order, ranks in _RANKS.items():
        ranked = (rows, np.minimum(columns, rows), np.zeros_like(rows))
        hue[order] = _hsv(*(ranked[rank] for rank in ranks))[..., 0]
    rest = rows - np.minimum(columns, rows)
    saturation = _hsv(rows, rest, rest)[..., 1].astype(np.float32) / np.float32(_HUE_LEVELS - 1)
    depth = rows.astype(np.float32) * saturation
    return _Tables(hue.ravel(), depth.ravel(), _falls())


def _hsv(*channels: NDArray[np.int_]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).convert("HSV"))


def _falls() -> tuple[NDArray[np.float32], ...]:
    place = np.arange(_HUE_LEVELS, dtype=np.float32) * np.float32(_SEXTANTS) / np.float32(_HUE_LEVELS - 1)
    sextant = np.floor(place)
    rising = (place - sextant).astype(np.float32)
    full, none = np.ones_like(rising), np.zeros_like(rising)
    # Red over the six sextants: at the top, falling away, at the bottom twice, coming back, at the top.
    cycle = (none, rising, full, full, 1 - rising, none)
    starts = (0, 4, 2)  # green and blue lag behind by two and four sextants
    return tuple(
        np.choose(sextant.astype(int) % _SEXTANTS, [cycle[(start + i) % _SEXTANTS] for i in range(_SEXTANTS)])
        for start in starts
    )


Pixels = NDArray[np.uint8]

_LEVELS = 256
_HUE_SCALE = 255
# PIL's grey level: (19595 R + 38470 G + 7471 B) / 65536, rounded; exact in float32.
_GREY = np.array([[19595, 38470, 7471]], np.float32) / np.float32(65536)


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
        for name in ("brightness", "contrast", "saturation"):
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


def apply_jitter(image: Image.Image | Pixels, operations: Sequence[tuple[str, float]]) -> Pixels:
    """Return a copy of an RGB image, (H, W, 3), with ("brightness" | "contrast" | "saturation" | "hue", factor) applied."""
    pixels = np.array(image)
    for name, factor in operations:
        _OPERATIONS[name](pixels, factor)
    return pixels


def adjust_brightness(pixels: Pixels, factor: float) -> None:
    """Blend (H, W, 3) pixels with black in place: 0 is black, 1 the image."""
    _blend_with_level(pixels, 0, factor)


def adjust_contrast(pixels: Pixels, factor: float) -> None:
    """Blend with the mean grey level, rounded, in place: 0 is plain grey, 1 the image."""
    total = 0
    for strip in strips(pixels):
        grey = np.asarray(cv2.transform(strip.astype(np.float32), _GREY))
        grey += np.float32(0.5)
        total += int(cv2.sumElems(grey.astype(np.uint8))[0])
    _blend_with_level(pixels, int(total / (pixels.shape[0] * pixels.shape[1]) + 0.5), factor)


def adjust_saturation(pixels: Pixels, factor: float) -> None:
    """Blend with the grey version in place: 0 is grey, 1 the image."""
    # PIL itself: neither tables nor float planes were faster.
    pixels[:] = np.asarray(ImageEnhance.Color(Image.fromarray(pixels)).enhance(factor))


def adjust_hue(pixels: Pixels, turns: float) -> None:
    """Turn the hue by `turns` in [-0.5, 0.5] in place; the hue byte moves by trunc(255 turns) and wraps, as published."""
    if not -0.5 <= turns <= 0.5:
        raise ValueError(f"expected a hue factor in [-0.5, 0.5], got {turns}")
    turn_hue(pixels, int(turns * _HUE_SCALE))


def _blend_with_level(pixels: Pixels, level: int, factor: float) -> None:
    """Blend every channel with a constant: PIL's own blend of the 256 levels, used as a table."""
    ramp = Image.frombytes("L", (_LEVELS, 1), bytes(range(_LEVELS)))
    table = np.asarray(Image.blend(Image.new("L", (_LEVELS, 1), level), ramp, factor))
    for strip in strips(pixels):
        cv2.LUT(strip, table, dst=strip)


_OPERATIONS = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


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


PIXEL_MAX = 255


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
    picture = np.clip(np.rint(pixels), 0, PIXEL_MAX).astype(np.uint8)
    return np.ascontiguousarray(picture[:, :, ::-1]) if image.order == "bgr" else picture


def channels(values: ChannelsConfig, order: str) -> NDArray[np.float32]:
    """Return (3,) values in the network's channel order."""
    rgb = (values.r, values.g, values.b)
    return np.array(rgb[::-1] if order == "bgr" else rgb, np.float32)
