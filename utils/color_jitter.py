"""Random brightness, contrast, saturation and hue, drawn and applied in the published order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

_LEVELS = 256
_HUE_SCALE = 255


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

    def __call__(self, image: Image.Image, rng: np.random.RandomState) -> Image.Image:
        """Return `image` (RGB) with one draw applied."""
        return apply_jitter(image, self.draw(rng))


def apply_jitter(image: Image.Image, operations: Sequence[tuple[str, float]]) -> Image.Image:
    """Apply ("brightness" | "contrast" | "saturation" | "hue", factor) pairs in order to an RGB image."""
    for name, factor in operations:
        image = _OPERATIONS[name](image, factor)
    return image


def adjust_brightness(image: Image.Image, factor: float) -> Image.Image:
    """Blend with black: 0 is black, 1 the image."""
    return _blend_with_level(image, 0, factor)


def adjust_contrast(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the mean grey level, rounded: 0 is plain grey, 1 the image."""
    histogram = np.array(image.convert("L").histogram(), dtype=np.int64)
    mean = float(histogram @ np.arange(_LEVELS)) / float(histogram.sum())
    return _blend_with_level(image, int(mean + 0.5), factor)


def adjust_saturation(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the grey version: 0 is grey, 1 the image."""
    return ImageEnhance.Color(image).enhance(factor)


def adjust_hue(image: Image.Image, turns: float) -> Image.Image:
    """Turn the hue by `turns` in [-0.5, 0.5]; the hue byte moves by trunc(255 turns) and wraps around, as published."""
    if not -0.5 <= turns <= 0.5:
        raise ValueError(f"expected a hue factor in [-0.5, 0.5], got {turns}")
    shift = int(turns * _HUE_SCALE)
    shifted = [(level + shift) % _LEVELS for level in range(_LEVELS)]
    same = list(range(_LEVELS))
    return image.convert("HSV").point(shifted + same + same).convert("RGB")


def _blend_with_level(image: Image.Image, level: int, factor: float) -> Image.Image:
    """Blend every channel with a constant: PIL's own blend of the 256 levels, used as a table (faster, same numbers)."""
    ramp = Image.frombytes("L", (_LEVELS, 1), bytes(range(_LEVELS)))
    table = list(Image.blend(Image.new("L", (_LEVELS, 1), level), ramp, factor).tobytes())
    return image.point(table * len(image.getbands()))


_OPERATIONS = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
