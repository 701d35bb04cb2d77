"""Pasting one cut-out into one image, as the published context-decoupling augmentation computes it.

Scale, row and column are drawn; everything else follows. An object is pasted where its label map is not 0 *and* its
saliency is high, without blending; the image's saliency takes the object's there.
"""

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.uint8]  # (H, W)
Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Mask = NDArray[np.bool_]

# The published guard against division by an empty mask: nothing to paste overlaps nothing.
_AREA_EPSILON = 1e-5
# Ranges like 1.2 - 0.8 are meant in decimals: binary rounding must not move a truncated size.
_DECIMALS = 10


@dataclass(frozen=True)
class Cutout:
    """An object with what surrounds it in its box.

    Attributes:
        image: (h, w, 3) RGB.
        labels: (h, w) label map: 0 around the object, its label value inside.
        saliency: (h, w), 0..255.
    """

    image: Picture
    labels: Grey
    saliency: Grey


@dataclass(frozen=True)
class PasteRule:
    """How an object is sized and placed; see `configs.paste_schema.PasteConfig` for the meaning of each."""

    fit: float = 0.7
    scale: tuple[float, float] = (0.8, 1.2)
    attempts: int = 10
    overlap: float = 0.2
    salient: int = 200


@dataclass(frozen=True)
class Placement:
    """Where an object goes: its size, its upper left corner, its mask (rows, columns), and the overlap in [0, 1]."""

    rows: int
    columns: int
    row: int
    column: int
    mask: Mask
    overlap: float

    @property
    def window(self) -> tuple[slice, slice]:
        """Return the rows and columns of the image it covers."""
        return slice(self.row, self.row + self.rows), slice(self.column, self.column + self.columns)


def fitted_size(size: tuple[int, int], room: tuple[int, int], fit: float) -> tuple[float, float]:
    """Return (height, width) of an object of `size` (h, w), shrunk to at most `fit` of `room` (H, W), its aspect kept."""
    height, width = float(size[0]), float(size[1])
    ratio = size[1] / size[0]
    if fit * room[0] < height:
        height = fit * room[0]
        width = height * ratio
    if fit * room[1] < width:
        width = fit * room[1]
        height = width / ratio
    return height, width


def find_place(saliency: Grey, cutout: Cutout, rule: PasteRule, rng: random.Random) -> Placement:
    """Draw places until one overlaps little with what is salient already.

    Args:
        saliency: (H, W) of the image.
        cutout: the object.
        rule: size and acceptance.
        rng: draws scale, row and column of each attempt, as published.

    Returns:
        The first place with overlap below `rule.overlap`, else the first of those with the least.
    """
    best: Placement | None = None
    for _ in range(rule.attempts):
        place = _draw_place(saliency, cutout, rule, rng)
        if best is None or place.overlap < best.overlap:
            best = place
        if place.overlap < rule.overlap:
            break
    if best is None:
        raise ValueError(f"expected at least one attempt, got {rule.attempts}")
    return best


def paste(image: Picture, saliency: Grey, cutout: Cutout, place: Placement) -> tuple[Picture, Grey]:
    """Return copies of `image` (H, W, 3) and `saliency` (H, W) with the object at its place."""
    image, saliency = image.copy(), saliency.copy()
    image[place.window][place.mask] = _resize(cutout.image, place.rows, place.columns)[place.mask]
    saliency[place.window][place.mask] = _resize(cutout.saliency, place.rows, place.columns)[place.mask]
    return image, saliency


def _draw_place(saliency: Grey, cutout: Cutout, rule: PasteRule, rng: random.Random) -> Placement:
    low, high = rule.scale
    factor = low + round(high - low, _DECIMALS) * rng.random()
    height, width = fitted_size((cutout.labels.shape[0], cutout.labels.shape[1]), _room(saliency), rule.fit)
    rows, columns = max(1, int(factor * height)), max(1, int(factor * width))
    row = rng.randint(0, saliency.shape[0] - rows)
    column = rng.randint(0, saliency.shape[1] - columns)
    # Published: the label map is resized like a picture too, so a class with a higher label value keeps more of its border.
    mask = (_resize(cutout.labels, rows, columns) != 0) & (_resize(cutout.saliency, rows, columns) > rule.salient)
    covered = mask & (saliency[row : row + rows, column : column + columns] > rule.salient)
    overlap = np.count_nonzero(covered) / (np.count_nonzero(mask) + _AREA_EPSILON)
    return Placement(rows, columns, row, column, mask, overlap)


def _room(saliency: Grey) -> tuple[int, int]:
    return saliency.shape[0], saliency.shape[1]


def _resize(array: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Resize with Pillow's bilinear filter (antialiased when shrinking), as SciPy's former image resize did."""
    return np.asarray(Image.fromarray(array).resize((columns, rows), Image.Resampling.BILINEAR))
