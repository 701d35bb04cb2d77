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
from utils.permutohedral_vertices import Vertices

# A vertex and the ones before and after it in a direction.
_BLUR = (1.0, 0.5, 0.5)


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
    return Bags(points, vertices.offsets, weights)


def _slice(vertices: Vertices, weights: Tensor) -> Bags:
    corners, points = weights.shape
    # What blurring adds to a constant field on a full lattice.
    gain = 1 / (1 + 2.0 ** (1 - corners))
    offsets = torch.arange(0, points * corners + 1, corners, dtype=torch.int32, device=weights.device)
    return Bags(vertices.ids.flatten(), offsets, (weights.t() * gain).flatten())


def _blur(vertices: Vertices, direction: int) -> Bags:
    before, after = vertices.neighbours(direction)
    itself = torch.arange(vertices.count, dtype=torch.int32, device=before.device)
    table = torch.stack([itself, before, after], 1)
    exists = table != vertices.count
    offsets = torch.nn.functional.pad(exists.sum(1, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0))
    weights = torch.tensor(_BLUR, device=before.device).expand(table.shape)
    return Bags(table.masked_select(exists), offsets, weights.masked_select(exists))
