"""The view of a picture that a sample shows: drawn once, then taken of the picture and of every map that lies over it."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from configs.schema import SampleConfig
from utils.data.classes import IGNORE
from utils.data.transforms import (
    Box,
    Size,
    area_crop_box,
    crop_with_padding,
    long_side_size,
    published_crop_box,
    resized_crop,
    scaled_size,
    short_side_size,
    true_crop_box,
)

_CROP_BOXES = {
    "swapped": published_crop_box,
    "correct": true_crop_box,
    "top_left": lambda rng, size, side: (0, 0, side, side),
}
_FLIP_CHANCE = 0.5


@dataclass(frozen=True)
class View:
    """What is shown of a picture: its `part`, resized to `size`, of that the `box`, and that `mirrored`.

    Attributes:
        part: (x1, y1, x2, y2) in the picture; None: all of it.
        size: (W, H) it is resized to.
        box: (x1, y1, x2, y2) in that; what lies outside is black, 0 in saliency maps, 255 in label maps.
        mirrored: left and right change places.
        resample: how a picture is resized.
    """

    part: Box | None
    size: Size
    box: Box
    mirrored: bool
    resample: Image.Resampling = Image.Resampling.BICUBIC

    def image(self, image: Image.Image) -> Image.Image:
        """Return the view of a picture, RGB."""
        return self._turned(resized_crop(self._part(image), self.size, self.box, self.resample))

    def map(self, values: Image.Image, resample: Image.Resampling) -> Image.Image:
        """Return the view of a map of the picture's size, L."""
        return self._turned(crop_with_padding(self._part(values).resize(self.size, resample), self.box))

    def seeds(self, labels: NDArray[np.uint8]) -> Tensor:
        """Return the view (S, S) uint8 of a label map (H, W) of the picture's size, nearest values."""
        # Unknown is 255, and what a crop adds is 0: turned round, both are what they should be.
        turned = self.map(Image.fromarray(IGNORE - labels), Image.Resampling.NEAREST)
        return torch.from_numpy(IGNORE - np.asarray(turned))

    def blanked(self, pixels: Tensor) -> Tensor:
        """Return a view (3, S, S) of normalised pixels with the mean colour, 0, outside of the picture."""
        (x1, y1, x2, y2), (width, height) = self.box, self.size
        left, right = max(-x1, 0), max(x2 - width, 0)
        if self.mirrored:
            left, right = right, left
        inside = torch.zeros_like(pixels)
        rows, columns = slice(max(-y1, 0), y2 - y1 - max(y2 - height, 0)), slice(left, x2 - x1 - right)
        inside[:, rows, columns] = pixels[:, rows, columns]
        return inside

    def _part(self, image: Image.Image) -> Image.Image:
        return image if self.part is None else image.crop(self.part)

    def _turned(self, image: Image.Image) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirrored else image


def draw_view(sample: SampleConfig, size: Size, rng: random.Random) -> View:
    """Draw a view by `sample.resize`, in the published order.

    Drawn are: short, stretch: scale (if varied), crop x, crop y, flip (if on); square: flip; area: see `area_crop_box`, flip;
    scale, long and none: factor or side (none: nothing), flip, crop x, crop y.

    Args:
        sample: geometry.
        size: (W, H) of the picture.
        rng: of the sample.
    """
    side, whole = sample.input_size, (0, 0, sample.input_size, sample.input_size)
    if sample.resize == "square":
        return View(None, (side, side), whole, _flips(sample, rng), Image.Resampling.BILINEAR)
    if sample.resize == "stretch":
        resized = (sample.short_side, sample.short_side)
        box = _CROP_BOXES[sample.crop](rng, resized, side)
        return View(None, resized, box, _flips(sample, rng), Image.Resampling.BILINEAR)
    if sample.resize == "area":
        part = area_crop_box(rng, size, sample.area_scale, sample.aspect)
        return View(part, (side, side), whole, _flips(sample, rng))
    if sample.resize == "short":
        low, high = sample.scale_jitter
        resized = short_side_size(size, round(sample.short_side * (rng.uniform(low, high) if low < high else low)))
        box = _CROP_BOXES[sample.crop](rng, resized, side)
        return View(None, resized, box, _flips(sample, rng))
    resized = size
    if sample.resize == "scale":
        resized = scaled_size(size, rng.uniform(*sample.scale_jitter))
    elif sample.resize == "long":
        resized = long_side_size(size, rng.randint(sample.long_side[0], sample.long_side[1]))
    mirrored = sample.flip and bool(rng.getrandbits(1))
    x1, y1, x2, y2 = _CROP_BOXES[sample.crop](rng, resized, side)
    # Drawn in the mirrored picture, as published.
    return View(None, resized, (resized[0] - x2, y1, resized[0] - x1, y2) if mirrored else (x1, y1, x2, y2), mirrored)


def _flips(sample: SampleConfig, rng: random.Random) -> bool:
    return sample.flip and rng.random() < _FLIP_CHANCE
