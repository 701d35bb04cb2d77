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

_KEY_LIMIT = 2**62


class Simplices(NamedTuple):
    """Simplices around P points in d dimensions.

    Corner r of every simplex is a vertex whose coordinates leave the remainder r when divided by d + 1: the corners of two
    ranks never share a vertex, so each rank has keys of its own, made of the coordinates' quotients.

    Attributes:
        keys: (d + 1, P) int64, a number for the vertex at each corner, unique within its row; the image is its leading digit.
        weights: (d + 1, P) float32 barycentric coordinates, summing to 1 over corners.
        radix: (d + 1) what one more in each coordinate adds to a key.
    """

    keys: Tensor
    weights: Tensor
    radix: tuple[int, ...]

    def step(self, corner: int, direction: int) -> int:
        """Return what to add to a key of row `corner` for its neighbour's in a direction, a key of the next row (cyclic)."""
        # The neighbour is one further in every coordinate, but d less in one.
        whole = sum(self.radix) if corner == len(self.radix) - 1 else 0
        return whole - self.radix[direction]


def enclosing_simplices(features: Tensor, image: Tensor | None = None) -> Simplices:
    """Return the corners of each point's simplex.

    Args:
        features: (P, d) float32, positions in units of one standard deviation.
        image: (P) int64 >= 0, which image a point is of; None: all are of one. Images share no vertices.

    Raises:
        ValueError: when the features span more vertices than a 64-bit key can number.
    """
    corners = features.shape[1] + 1
    elevated = _elevate(features.t().contiguous())
    rounded, rank = _nearest_origin(elevated)
    # From here on, rows are in order of rank instead of axis.
    excess = torch.empty_like(elevated).scatter_(0, rank, (elevated - rounded * corners) * _inverse(corners - 1)).flip(0)
    weights = excess.clone()
    weights[1:] -= excess[:-1]
    weights[0] += 1 - excess[-1]
    keys, radix = _vertex_keys(rounded[:-1].long(), rank, image)
    return Simplices(keys, weights, radix)


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
    """Return the simplex' vertex of remainder 0, divided by d + 1, (d + 1, P) float32 of whole numbers, and the rank
    (d + 1, P) int64 of each coordinate's distance from it, 0 for the largest."""
    corners, points = elevated.shape
    rounded = torch.round(elevated * _inverse(corners - 1))
    excess = elevated - rounded * corners
    rank = rounded.sum(0).to(torch.int8).expand(corners, points).clone()
    for first, second in combinations(range(corners), 2):
        less = excess[first] < excess[second]
        rank[first] += less
        rank[second] += ~less
    # Rounding may have left the hyperplane; the coordinates nearest to the next vertex move until the sum is 0 again.
    wrap = (rank < 0).to(torch.int8) - (rank >= corners).to(torch.int8)
    return rounded + wrap, (rank + wrap * corners).long()


def _vertex_keys(base: Tensor, rank: Tensor, image: Tensor | None) -> tuple[Tensor, tuple[int, ...]]:
    """Number the vertices by mixed-radix digits: the image, then the first d quotients (d, P); the last is implied."""
    dimensions, points = base.shape
    low, high = base.amin(1).tolist(), base.amax(1).tolist()
    # Corners lie up to 1 below the base and their neighbours another 1 on either side: no carry into the next digit.
    widths = [top - bottom + 4 for bottom, top in zip(low, high, strict=True)]
    cells = math.prod(widths)
    images = 1 if image is None else int(image.max()) + 1
    if cells * images >= _KEY_LIMIT:
        raise ValueError(
            f"the features span {cells} lattice cells x {images} image(s), more than {_KEY_LIMIT}; "
            "take larger standard deviations"
        )
    radix = (*(math.prod(widths[axis + 1 :]) for axis in range(dimensions)), 0)
    key = base.new_zeros(points) if image is None else image * cells
    for axis in range(dimensions):
        key += (base[axis] - (low[axis] - 2)) * radix[axis]
    # Each corner is one further in every coordinate than the one before, but d less in the one of the next lower rank.
    by_rank = torch.empty_like(rank).scatter_(0, rank, base.new_tensor(radix)[:, None].expand(dimensions + 1, points))
    keys = torch.empty_like(by_rank)
    keys[0] = key
    for corner in range(1, dimensions + 1):
        torch.sub(keys[corner - 1], by_rank[dimensions + 1 - corner], out=keys[corner])
    return keys, radix
