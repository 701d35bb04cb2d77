"""Which simplex of the permutohedral lattice holds a point, and with which weights (Adams et al. 2010, section 3).

The arithmetic follows the order of the published C++ code of Kraehenbuehl & Koltun (2011) in float32: a point on the border of
two simplices has to fall on the same side, since the choice decides which vertices exist. Keep `torch.compile` away from
here: it fuses multiplications into additions, which rounds differently.
"""

import math
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# The published code works on four points at once and fills the last four with zero features, whose vertices then exist.
_POINTS_AT_ONCE = 4
_KEY_LIMIT = 2**62


class Simplices(NamedTuple):
    """Simplices around P points (padding included) in d dimensions.

    Attributes:
        keys: (P, d + 1) int64, a number for each corner's vertex; the image is its leading digit.
        weights: (P, d + 1) float32 barycentric coordinates, summing to 1.
        steps: (d + 1) what to add to a vertex' key to get its neighbour in each direction.
    """

    keys: Tensor
    weights: Tensor
    steps: tuple[int, ...]


def enclosing_simplices(features: Tensor) -> Simplices:
    """Return the corners of each point's simplex.

    Args:
        features: (B, N, d) float32. N is padded to a multiple of 4 with zero features: P = B * padded N.

    Raises:
        ValueError: when the features span more vertices than a 64-bit key can number.
    """
    images, points, dimensions = features.shape
    padding = -points % _POINTS_AT_ONCE
    padded = torch.nn.functional.pad(features, (0, 0, 0, padding))
    elevated = _elevate(padded.reshape(-1, dimensions).t().contiguous())
    base, rank = _nearest_origin(elevated)
    # From here on, rows are in order of rank instead of axis.
    excess = torch.empty_like(elevated).scatter_(0, rank, (elevated - base) * _inverse(dimensions)).flip(0)
    weights = excess.clone()
    weights[1:] -= excess[:-1]
    weights[0] += 1 - excess[-1]
    keys, steps = _vertex_keys(base[:-1].long(), rank, images)
    return Simplices(keys, weights.t().contiguous(), steps)


def _elevate(features: Tensor) -> Tensor:
    """Embed (d, P) points in the hyperplane of d + 1 coordinates that sum to 0."""
    dimensions, points = features.shape
    elevated = features.new_empty(dimensions + 1, points)
    total = features.new_zeros(points)
    for axis in range(dimensions, 0, -1):
        scaled = features[axis - 1] * _scale(axis - 1, dimensions)
        elevated[axis] = total - scaled * axis
        total = total + scaled
    elevated[0] = total
    return elevated


def _scale(axis: int, dimensions: int) -> float:
    """Scale of an axis at which splat, blur and slice together have a standard deviation of 1."""
    deviation = float(np.float32(math.sqrt(2 / 3) * (dimensions + 1)))
    return float(np.float32(1 / math.sqrt((axis + 1) * (axis + 2)) * deviation))


def _inverse(dimensions: int) -> float:
    return float(np.float32(1 / (dimensions + 1)))


def _nearest_origin(elevated: Tensor) -> tuple[Tensor, Tensor]:
    """Return the simplex' vertex of remainder 0, (d + 1, P) float32, and the rank (d + 1, P) int64 of each coordinate's
    distance from it, 0 for the largest."""
    corners, points = elevated.shape
    rounded = torch.round(elevated * _inverse(corners - 1))
    base = rounded * corners
    excess = elevated - base
    rank = rounded.sum(0).to(torch.int8).expand(corners, points).clone()
    for first, second in combinations(range(corners), 2):
        less = excess[first] < excess[second]
        rank[first] += less
        rank[second] += ~less
    # Rounding may have left the hyperplane; the coordinates nearest to the next vertex move until the sum is 0 again.
    wrap = ((rank < 0).to(torch.int8) - (rank >= corners).to(torch.int8)) * corners
    return base + wrap, (rank + wrap).long()


def _vertex_keys(base: Tensor, rank: Tensor, images: int) -> tuple[Tensor, tuple[int, ...]]:
    """Number the vertices: mixed-radix digits are the image and the first d coordinates of `base` (d, P)."""
    dimensions, points = base.shape
    corners = dimensions + 1
    low, high = base.amin(1).tolist(), base.amax(1).tolist()
    # A corner lies up to d from the base on either side and its neighbours another d: no carry into the next digit.
    widths = [top - bottom + 4 * dimensions + 1 for bottom, top in zip(low, high, strict=True)]
    if math.prod(widths) * images >= _KEY_LIMIT:
        raise ValueError(
            f"the features span {math.prod(widths)} lattice cells x {images} image(s), more than {_KEY_LIMIT}; "
            "take larger standard deviations"
        )
    radix = [math.prod(widths[axis + 1 :]) for axis in range(dimensions)] + [0]
    digits = base.new_tensor(radix)
    key = torch.arange(images, device=base.device).repeat_interleave(points // images) * math.prod(widths)
    for axis in range(dimensions):
        key += (base[axis] - low[axis] + 2 * dimensions) * radix[axis]
    # Corner r + 1 is one further in every coordinate, but d less in the one of rank d - r.
    by_rank = torch.empty_like(rank).scatter_(0, rank, digits[:, None].expand(corners, points))
    keys = key.new_empty(points, corners)
    keys[:, 0] = key
    for corner in range(1, corners):
        key = key + (sum(radix) - corners * by_rank[corners - corner])
        keys[:, corner] = key
    return keys, tuple(sum(radix) - corners * digit for digit in radix)
