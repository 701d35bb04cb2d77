"""The dense CRF in PyTorch alone (CPU and CUDA): mean-field inference of Kraehenbuehl & Koltun (2011).

Rows are pixels of one or several images, in the order of `models.refiners.mean_field`; columns are classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from models.refiners.permutohedral import Lattice, build_lattice

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
    """Constants of the model; defaults are those of the published DeepLab files. Raises ValueError for one out of range.

    Attributes:
        iterations: of the mean field, >= 1.
        pos_w, pos_xy_std: weight of the smoothness kernel (>= 0; 0 leaves it out), and its deviation in pixels (> 0).
        bi_w: weight of the appearance kernel, >= 0; 0 leaves it out.
        bi_xy_std, bi_rgb_std: its deviations of position in pixels, of colour in grey levels of 255, > 0.
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
            raise ValueError(f"the CRF's iterations are {self.iterations}, expected at least 1")
        for name in ("pos_w", "bi_w"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"the CRF's {name} is {getattr(self, name)}, expected >= 0")
        for name in ("pos_xy_std", "bi_xy_std", "bi_rgb_std"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"the CRF's {name} is {getattr(self, name)}, expected > 0")


def check_arrays(probabilities: NDArray[np.float32] | Tensor, image: Picture) -> None:
    """Check shapes and types of one image and its probabilities. Raises ValueError saying what was found and expected."""
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


# The published filter works on four points at once and fills the last four with zero features, whose vertices then exist.
_POINTS_AT_ONCE = 4
# Keeps the normalisation finite where nothing arrives, as published.
_TINY = 1e-20
# Lattices of positions kept, 30 MB each at 500 x 375: data sets hold few sizes of pictures.
_KEPT = 4
# Sides of pictures are below 2 to this.
_SIDE_BITS = 16

Sizes = tuple[tuple[int, int], ...]


def padded(points: int) -> int:
    """Return the number of rows an image of so many pixels takes."""
    return points + -points % _POINTS_AT_ONCE


@lru_cache(maxsize=_KEPT)
def pixel_order(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return (H * W) int64: the pixels (y * W + x) of a picture `size` (H, W) in Morton order, so that neighbours in both
    directions are close in the list, which keeps the filter's work in a processor's cache."""
    y, x = (torch.arange(side, device=device) for side in size)
    place = (_spread(y)[:, None] << 1) | _spread(x)
    return place.flatten().argsort()


@lru_cache(maxsize=_KEPT)
def pixel_places(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return (H * W) int64: where each pixel is in `pixel_order`."""
    return pixel_order(size, device).argsort()


def _spread(numbers: Tensor) -> Tensor:
    """Put a 0 before each bit."""
    spread = torch.zeros_like(numbers)
    for bit in range(_SIDE_BITS):
        spread |= (numbers >> bit & 1) << 2 * bit
    return spread


def prepare_kernels(images: Sequence[Tensor], sizes: Sizes, p: CrfParameters) -> list[Lattice]:
    """Return the kernels of several images' pixels, weights folded in; those of weight 0 are left out.

    Args:
        images: (H, W, 3) uint8 each.
        sizes: their (H, W).
        p: constants.
    """
    kernels = []
    if p.pos_w > 0:
        kernels.append(_position_kernel(sizes, p.pos_xy_std, p.pos_w, images[0].device))
    if p.bi_w > 0:
        features = [_appearance(image, size, p) for image, size in zip(images, sizes, strict=True)]
        kernels.append(_normalised(features, p.bi_w))
    return kernels


@lru_cache(maxsize=_KEPT)
def _position_kernel(sizes: Sizes, deviation: float, weight: float, device: torch.device) -> Lattice:
    return _normalised([_positions(size, device) / deviation for size in sizes], weight)


def _appearance(image: Tensor, size: tuple[int, int], p: CrfParameters) -> Tensor:
    """Return (H * W, 5) float32: position and colour in units of their standard deviations."""
    colours = image.flatten(0, 1).index_select(0, pixel_order(size, image.device))
    return torch.cat([_positions(size, image.device) / p.bi_xy_std, colours / p.bi_rgb_std], 1)


def _positions(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return (H * W, 2) float32 x, y."""
    order = pixel_order(size, device)
    return torch.stack([order % size[1], order // size[1]], 1).float()


def _normalised(features: list[Tensor], weight: float) -> Lattice:
    """Return the filter weight * D K D with D = 1 / sqrt(K 1), the published symmetric normalisation; images stay apart."""
    counts = [len(one) for one in features]
    valid = torch.cat([pad(one.new_ones(len(one)), (0, padded(len(one)) - len(one))) for one in features])
    image = None
    if len(features) > 1:
        numbers = torch.arange(len(counts), device=valid.device)
        image = numbers.repeat_interleave(torch.tensor([padded(count) for count in counts], device=valid.device))
    lattice = build_lattice(torch.cat([pad(one, (0, 0, 0, padded(len(one)) - len(one))) for one in features]), image)
    scale = (lattice.filter(valid[:, None])[:, 0] + _TINY).rsqrt()
    return lattice.scaled(scale * valid, scale * weight)


# On a CPU, classes are taken in portions whose results stay below this: beyond 32 MiB, the C library gives memory back to the
# system at once, and every result has to fault its pages in anew, which takes longer than the sums.
_PORTION_BYTES = 2**25


def refine(probabilities: Sequence[Tensor], images: Sequence[Tensor], p: CrfParameters) -> list[Tensor]:
    """Return refined probabilities (C, H, W) float32 of each image.

    Args:
        probabilities: (C, H, W) float32 in [0, 1] each; sizes and C may differ. All on one device.
        images: (H, W, 3) uint8 each.
        p: constants.
    """
    # On a CPU, several images at once only spill the caches.
    at_once = len(images) if probabilities[0].is_cuda else 1
    portions = [slice(start, start + at_once) for start in range(0, len(images), at_once)]
    return [q for portion in portions for q in _refine_together(probabilities[portion], images[portion], p)]


@torch.no_grad()
def _refine_together(probabilities: Sequence[Tensor], images: Sequence[Tensor], p: CrfParameters) -> list[Tensor]:
    sizes: Sizes = tuple((image.shape[0], image.shape[1]) for image in images)
    kernels = prepare_kernels(images, sizes, p)
    priors = _portions(_to_rows(probabilities, sizes), kernels)
    q = _mean_field(priors, kernels, p.iterations)
    if not all(bool(part.sum().isfinite()) for part in q):
        q = _mean_field(priors, kernels, p.iterations, overflows=True)
    return _to_images(torch.cat(q, 1) if len(q) > 1 else q[0], [one.shape[0] for one in probabilities], sizes)


def _mean_field(priors: list[Tensor], kernels: list[Lattice], iterations: int, overflows: bool = False) -> list[Tensor]:
    """Iterate q = prior * exp(sum of the kernels' messages), normalised over classes.

    Args:
        priors: (P, c) unnormalised probabilities, portions of the classes; a class that is not there is 0.
        kernels: their weights are folded in.
        iterations: >= 1.
        overflows: messages are too large for exp; slower.
    """
    q = _normalise([prior.clone() for prior in priors])
    for _ in range(iterations):
        # Potts: a class gains by what its neighbours have of it.
        messages = [_message(kernels, part) for part in q]
        if overflows:
            top = torch.stack([message.amax(1) for message in messages]).amax(0)
            messages = [message.sub_(top[:, None]) for message in messages]
        q = _normalise([message.exp_().mul_(prior) for message, prior in zip(messages, priors, strict=True)])
    return q


def _message(kernels: list[Lattice], q: Tensor) -> Tensor:
    if not kernels:
        return torch.zeros_like(q)
    message = kernels[0].filter(q)
    for kernel in kernels[1:]:
        message += kernel.filter(q)
    return message


def _normalise(parts: list[Tensor]) -> list[Tensor]:
    """Divide all parts, in place, by the sum over all their columns."""
    # A product with ones: faster than summing short rows.
    total = sum(part @ part.new_ones(part.shape[1], 1) for part in parts)
    return [part.div_(total) for part in parts]


def _portions(rows: Tensor, kernels: list[Lattice]) -> list[Tensor]:
    if rows.is_cuda:
        return [rows]
    widest = max([rows.shape[0], *(kernel.vertices for kernel in kernels)])
    columns = max(1, _PORTION_BYTES // (widest * rows.element_size()) - 1)
    count = -(-rows.shape[1] // columns)
    return [part.contiguous() for part in rows.tensor_split(count, dim=1)]


def _to_rows(probabilities: Sequence[Tensor], sizes: Sizes) -> Tensor:
    """Return (P, C), C the largest number of classes: those an image lacks are 0, so that nothing flows through them."""
    classes = max(one.shape[0] for one in probabilities)
    blocks = []
    for one, size in zip(probabilities, sizes, strict=True):
        flat = one.flatten(1).clamp(LOWEST_PROBABILITY, 1.0).t().contiguous()
        flat = flat.index_select(0, pixel_order(size, one.device))
        # Rows of padding hold anything that can be divided; they are splatted nowhere and cut off again.
        flat = pad(flat, (0, 0, 0, padded(len(flat)) - len(flat)), value=1.0)
        blocks.append(pad(flat, (0, classes - flat.shape[1])))
    return torch.cat(blocks) if len(blocks) > 1 else blocks[0]


def _to_images(rows: Tensor, classes: Sequence[int], sizes: Sizes) -> list[Tensor]:
    blocks = rows.split([padded(height * width) for height, width in sizes])
    return [
        block.index_select(0, pixel_places(size, rows.device))[:, :count].t().reshape(count, *size).contiguous()
        for block, count, size in zip(blocks, classes, sizes, strict=True)
    ]
