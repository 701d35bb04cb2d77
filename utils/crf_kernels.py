"""The two Gaussian kernels of the dense CRF on the permutohedral lattice, normalised, and the order of pixels they work in."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from utils.crf_inputs import CrfParameters
from utils.permutohedral import Lattice, build_lattice

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
