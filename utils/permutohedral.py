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

from utils.permutohedral_simplex import Simplices, enclosing_simplices


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
        corners = len(self.blur)
        return Lattice(
            splat._replace(weights=splat.weights * before[splat.indices]),
            self.blur,
            slices._replace(weights=(slices.weights.view(-1, corners) * after[:, None]).flatten()),
        )


def build_lattice(features: Tensor, image: Tensor | None = None) -> Lattice:
    """Return the lattice of points.

    Vertices are those that the published C++ code of Kraehenbuehl & Koltun makes; a value moves only through vertices that
    exist, so both give the same sums but for rounding.

    Args:
        features: (P, d) float32, positions in units of one standard deviation.
        image: (P) int64 >= 0, which image a point is of: each is filtered apart from the others; None: all are of one.

    Raises:
        ValueError: when the features span more vertices than a 64-bit key can number.
    """
    simplices = enclosing_simplices(features, image)
    corners = [_sort_corner(keys) for keys in simplices.keys]
    first_vertex = [0]
    for corner in corners:
        first_vertex.append(first_vertex[-1] + corner.keys.numel())
    return Lattice(
        _splat(simplices, corners),
        tuple(_blur(simplices, corners, first_vertex, direction) for direction in range(len(corners))),
        _slice(simplices, corners, first_vertex),
    )


class _Corner(NamedTuple):
    """The vertices at one corner of all simplices: sorted keys (v); where each starts (v) in `points` (P), the points in order
    of vertices; and the vertex of each point, ids (P) int32."""

    keys: Tensor
    starts: Tensor
    points: Tensor
    ids: Tensor


def _sort_corner(keys: Tensor) -> _Corner:
    ordered, points = torch.sort(keys)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=fresh[1:])
    starts = fresh.nonzero().flatten()
    ids = torch.empty_like(points, dtype=torch.int32)
    ids[points] = fresh.cumsum(0, dtype=torch.int32) - 1
    return _Corner(ordered[starts], starts, points, ids)


def _splat(simplices: Simplices, corners: list[_Corner]) -> Bags:
    """Points of one vertex are neighbours after sorting: they are its bag."""
    points = simplices.keys.shape[1]
    offsets = [corner.starts + number * points for number, corner in enumerate(corners)]
    end = offsets[0].new_tensor([points * len(corners)])
    weights = [weights[corner.points] for weights, corner in zip(simplices.weights, corners, strict=True)]
    return Bags(torch.cat([corner.points for corner in corners]).int(), torch.cat([*offsets, end]).int(), torch.cat(weights))


def _blur(simplices: Simplices, corners: list[_Corner], first_vertex: list[int], direction: int) -> Bags:
    """Each vertex plus half of its two neighbours, where they exist."""
    pairs = []
    for number, corner in enumerate(corners):
        following = (number + 1) % len(corners)
        candidates = corners[following].keys
        wanted = corner.keys + simplices.step(number, direction)
        found = torch.searchsorted(candidates, wanted).clamp_(max=candidates.numel() - 1)
        source = (candidates[found] == wanted).nonzero().flatten()
        pairs.append((source + first_vertex[number], found[source] + first_vertex[following]))
    source, target = (torch.cat(ends) for ends in zip(*pairs, strict=True))
    vertices = first_vertex[-1]
    sizes = torch.ones(vertices + 1, dtype=torch.int32, device=source.device)
    sizes[0] = 0
    sizes[source + 1] += 1
    sizes[target + 1] += 1
    offsets = sizes.cumsum(0, dtype=torch.int32)
    indices = torch.empty(vertices + 2 * source.numel(), dtype=torch.int32, device=source.device)
    weights = torch.full(indices.shape, 0.5, device=source.device)
    own = offsets[:-1].long()
    indices[own] = torch.arange(vertices, dtype=torch.int32, device=source.device)
    weights[own] = 1.0
    indices[own[source] + 1] = target.int()
    indices[offsets[target + 1].long() - 1] = source.int()
    return Bags(indices, offsets, weights)


def _slice(simplices: Simplices, corners: list[_Corner], first_vertex: list[int]) -> Bags:
    dimensions = len(corners) - 1
    # What blurring adds to a constant field on a full lattice.
    gain = 1 / (1 + 2.0**-dimensions)
    ids = torch.stack([corner.ids + first for corner, first in zip(corners, first_vertex, strict=False)], 1).flatten()
    offsets = torch.arange(0, ids.numel() + 1, len(corners), dtype=torch.int32, device=ids.device)
    return Bags(ids, offsets, (simplices.weights.t() * gain).flatten())
