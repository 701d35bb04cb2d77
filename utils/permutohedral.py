"""The permutohedral lattice: Gaussian filtering of points with any feature vectors, by tensor operations alone.

Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010. Points are spread
onto the corners of the lattice simplex around them (splat), values move along each of the d + 1 lattice directions (blur),
and points read them back (slice). All three are weighted sums of rows, and run as `embedding_bag` on a CPU or on CUDA.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from utils.permutohedral_simplex import enclosing_simplices
from utils.permutohedral_vertices import Vertices, starts_of


class Bags(NamedTuple):
    """A sparse matrix as weighted sums of rows.

    Attributes:
        indices: (entries) int32 rows to sum.
        offsets: (bags + 1) int32 where each bag starts in `indices`.
        weights: (entries) float32 factor of each row.
    """

    indices: Tensor
    offsets: Tensor
    weights: Tensor

    def apply(self, values: Tensor) -> Tensor:
        """Return (bags, C) sums of the rows of `values` (rows, C), float32."""
        return embedding_bag(
            self.indices, values, self.offsets, mode="sum", per_sample_weights=self.weights, include_last_offset=True
        )


@dataclass(frozen=True)
class Lattice:
    """Tables of one set of points: P points, V vertices, feature dimension d.

    Attributes:
        splat: P rows to V.
        blur: V rows to V, one for each of the d + 1 directions.
        slice: V rows to P.
    """

    splat: Bags
    blur: tuple[Bags, ...]
    slice: Bags

    @property
    def vertices(self) -> int:
        """Return V."""
        return self.splat.offsets.numel() - 1

    def filter(self, values: Tensor) -> Tensor:
        """Return the filtered (P, C) float32 of `values` (P, C); not normalised."""
        values = self.splat.apply(values)
        for direction in self.blur:
            values = direction.apply(values)
        return self.slice.apply(values)

    def scaled(self, before: Tensor, after: Tensor) -> "Lattice":
        """Return the lattice that filters `before * values` and multiplies the result by `after`; both (P) float32."""
        splat, slices = self.splat, self.slice
        weights = slices.weights.view(after.numel(), -1) * after[:, None]
        return Lattice(
            splat._replace(weights=splat.weights * before[splat.indices]),
            self.blur,
            slices._replace(weights=weights.flatten()),
        )


def build_lattice(features: Tensor, image: Tensor | None = None) -> Lattice:
    """Return the lattice of points.

    Vertices are those that the published C++ code of Kraehenbuehl & Koltun makes; a value moves only through vertices that
    exist, so both give the same sums but for rounding. Points that are close in space are best close in the list too.

    Args:
        features: (P, d) float32, positions in units of one standard deviation.
        image: (P) int64 >= 0, which image a point is of: each is filtered apart from the others; None: all are of one.

    Raises:
        ValueError: when the features span more vertices than a 64-bit key can number.
    """
    simplices = enclosing_simplices(features, image)
    vertices = Vertices(simplices)
    return Lattice(
        _splat(vertices, simplices.weights),
        tuple(_blur(vertices, direction) for direction in range(features.shape[1] + 1)),
        _slice(vertices, simplices.weights),
    )


def _splat(vertices: Vertices, weights: Tensor) -> Bags:
    points, weights = vertices.points_by_vertex(weights)
    return Bags(points, vertices.offsets.int(), weights)


def _slice(vertices: Vertices, weights: Tensor) -> Bags:
    corners, points = weights.shape
    # What blurring adds to a constant field on a full lattice.
    gain = 1 / (1 + 2.0 ** (1 - corners))
    offsets = torch.arange(0, points * corners + 1, corners, dtype=torch.int32, device=weights.device)
    return Bags(vertices.ids.t().flatten(), offsets, (weights.t() * gain).flatten())


def _blur(vertices: Vertices, direction: int) -> Bags:
    """Each vertex in full and half of the ones before and after it, where they exist."""
    first, second = vertices.neighbours(direction)
    sizes = torch.ones(vertices.count, dtype=torch.int64, device=first.device)
    # Nobody is first, nor second, in two pairs.
    sizes += torch.zeros_like(sizes).scatter_(0, first, 1)
    sizes += torch.zeros_like(sizes).scatter_(0, second, 1)
    offsets = starts_of(sizes)
    starts, ends = offsets[:-1], offsets[1:]
    indices = torch.empty(vertices.count + 2 * first.numel(), dtype=torch.int32, device=first.device)
    indices.scatter_(0, starts, torch.arange(vertices.count, dtype=torch.int32, device=first.device))
    indices.scatter_(0, starts.index_select(0, first) + 1, second.int())
    indices.scatter_(0, ends.index_select(0, second) - 1, first.int())
    weights = torch.full(indices.shape, 0.5, device=first.device).scatter_(0, starts, 1.0)
    return Bags(indices, offsets.int(), weights)
