"""Random brightness, contrast, saturation and hue, drawn and applied in the published order.

The numbers are those of PIL's ImageEnhance and HSV conversion; they are reached through tables and cache-sized strips.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from utils.hue import turn_hue
from utils.strips import strips

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
