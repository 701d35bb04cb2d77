"""Turning the hue of 8-bit pixels: PIL's numbers exactly, from tables PIL itself fills, in a fifth of its time."""

import functools
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from utils.strips import strips

_LEVELS = 256
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
    step = np.uint8(shift % _LEVELS)
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
    rows, columns = np.meshgrid(np.arange(_LEVELS), np.arange(_LEVELS), indexing="ij")
    hue = np.zeros((len(_RANKS) + 2, _LEVELS, _LEVELS), np.uint8)
    for order, ranks in _RANKS.items():
        ranked = (rows, np.minimum(columns, rows), np.zeros_like(rows))
        hue[order] = _hsv(*(ranked[rank] for rank in ranks))[..., 0]
    rest = rows - np.minimum(columns, rows)
    saturation = _hsv(rows, rest, rest)[..., 1].astype(np.float32) / np.float32(_LEVELS - 1)
    depth = rows.astype(np.float32) * saturation
    return _Tables(hue.ravel(), depth.ravel(), _falls())


def _hsv(*channels: NDArray[np.int_]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).convert("HSV"))


def _falls() -> tuple[NDArray[np.float32], ...]:
    place = np.arange(_LEVELS, dtype=np.float32) * np.float32(_SEXTANTS) / np.float32(_LEVELS - 1)
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
