"""What goes into a dense CRF: its constants, checked arrays, the classes worth computing, the published picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.errors import UserError

# Functions of the CRF give back what they are given: arrays or tensors.
Array = TypeVar("Array", NDArray[np.float32], Tensor)
Picture = NDArray[np.uint8] | Tensor

# Probabilities are clipped to [1e-5, 1] before the logarithm, as published.
LOWEST_PROBABILITY = 1e-5
# What soft-max in float32 may leave above 1.
_ABOVE_ONE = 1e-3
_COLOURS = 3


@dataclass(frozen=True)
class CrfParameters:
    """Constants of the model, named as in `dense_crf`.

    Raises:
        UserError: for one out of range.
    """

    iterations: int = 10
    pos_w: float = 3.0
    pos_xy_std: float = 1.0
    bi_w: float = 4.0
    bi_xy_std: float = 67.0
    bi_rgb_std: float = 3.0

    def __post_init__(self) -> None:
        """Check ranges; comparisons are written so that NaN fails them."""
        if self.iterations < 1:
            raise UserError(f"the CRF's iterations are {self.iterations}, expected at least 1")
        for name in ("pos_w", "bi_w"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"the CRF's {name} is {getattr(self, name)}, expected >= 0")
        for name in ("pos_xy_std", "bi_xy_std", "bi_rgb_std"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"the CRF's {name} is {getattr(self, name)}, expected > 0")


def check_arrays(probabilities: NDArray[np.float32] | Tensor, image: Picture) -> None:
    """Check shapes and types of one image and its probabilities.

    Raises:
        ValueError: saying what was found and expected.
    """
    shape = tuple(probabilities.shape)
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"probabilities have shape {shape}, expected (classes, H, W)")
    if probabilities.dtype not in (np.float32, torch.float32):
        raise ValueError(f"probabilities are {probabilities.dtype}, expected float32")
    if tuple(image.shape) != (*shape[1:], _COLOURS):
        raise ValueError(f"the image has shape {tuple(image.shape)}, expected {(*shape[1:], _COLOURS)} like its probabilities")
    if image.dtype not in (np.uint8, torch.uint8):
        raise ValueError(f"the image is {image.dtype}, expected uint8")


def classes_above(probabilities: Tensor, bound: float) -> list[int]:
    """Return the classes of (C, H, W) whose probability exceeds `bound` somewhere: all with bound 0 or where none does.

    Raises:
        ValueError: when values are not finite or outside [0, 1].
    """
    low, high = torch.stack([*probabilities.flatten(1).aminmax(dim=1)]).tolist()
    if not all(bottom >= 0 and top <= 1 + _ABOVE_ONE for bottom, top in zip(low, high, strict=True)):
        raise ValueError("probabilities hold values that are not finite or outside [0, 1]; apply soft-max to logits first")
    everything = list(range(len(high)))
    if bound <= 0:
        return everything
    return [c for c in everything if high[c] > bound] or everything


def published_image(image: NDArray[np.uint8], mean: Sequence[float]) -> NDArray[np.uint8]:
    """Return the picture the published `crf` command worked on: mean subtracted, truncated towards 0, modulo 256, in BGR.

    Published numbers were made this way (100 - 104.008 becomes -4, then 252). The order of channels is what
    the published program had: it matters a little, since the lattice's approximation depends on it.

    Args:
        image: (H, W, 3) uint8 RGB.
        mean: of the network's input, R, G, B in grey levels.

    Returns:
        (H, W, 3) uint8 in BGR order.
    """
    centred = image.astype(np.float32) - np.asarray(mean, np.float32)
    # By way of int16: a direct conversion of negative numbers depends on the processor.
    wrapped = np.trunc(centred).astype(np.int16).astype(np.uint8)
    return np.ascontiguousarray(wrapped[:, :, ::-1])
