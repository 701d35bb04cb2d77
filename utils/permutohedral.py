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


def build_lattice(features: Tensor) -> Lattice:
    """Return the lattice of several images' points, each image filtered apart from the others.

    Vertices are those that the published C++ code of Kraehenbuehl & Koltun makes; a value moves only through vertices that
    exist, so both give the same sums but for rounding.

    Args:
        features: (B, N, d) float32, positions in units of one standard deviation; the points become rows b * N + n.

    Raises:
        ValueError: when the features span more vertices than a 64-bit key can number.
    """
    images, points, dimensions = features.shape
    simplices = enclosing_simplices(features)
    keys, order = torch.sort(simplices.keys.flatten())
    fresh = torch.ones_like(keys, dtype=torch.bool)
    torch.ne(keys[1:], keys[:-1], out=fresh[1:])
    starts = fresh.nonzero().flatten()
    ids = torch.empty(keys.shape, dtype=torch.int32, device=keys.device)
    ids[order] = fresh.cumsum(0, dtype=torch.int32) - 1
    padded = simplices.keys.shape[0] // images

    def of_points(table: Tensor) -> Tensor:
        return table.view(images, padded, dimensions + 1)[:, :points].reshape(-1)

    return Lattice(
        _splat(simplices, order, starts, (images, points)),
        tuple(_blur(keys[starts], step) for step in simplices.steps),
        _slice(of_points(ids), of_points(simplices.weights), dimensions),
    )


def _splat(simplices: Simplices, order: Tensor, starts: Tensor, shape: tuple[int, int]) -> Bags:
    """Rows of one vertex are neighbours after sorting: they are its bag."""
    images, points = shape
    corners = simplices.keys.shape[1]
    padded = simplices.keys.shape[0] // images
    rows = order // corners
    weights = simplices.weights.flatten()[order]
    if padded != points:
        # Padding makes vertices but has no value.
        place = rows % padded
        weights = weights.masked_fill(place >= points, 0)
        rows = torch.where(place < points, rows // padded * points + place, 0)
    offsets = torch.empty(starts.numel() + 1, dtype=torch.int32, device=order.device)
    offsets[:-1] = starts
    offsets[-1] = order.numel()
    return Bags(rows.int(), offsets, weights)


def _blur(keys: Tensor, step: int) -> Bags:
    """Each vertex plus half of its two neighbours at `keys` +- `step`, where they exist; `keys` (V) ascending."""
    wanted = keys + step
    found = torch.searchsorted(keys, wanted).clamp_(max=keys.numel() - 1)
    source = (keys[found] == wanted).nonzero().flatten()
    target = found[source]
    sizes = torch.ones(keys.numel() + 1, dtype=torch.int32, device=keys.device)
    sizes[0] = 0
    sizes[source + 1] += 1
    sizes[target + 1] += 1
    offsets = sizes.cumsum(0, dtype=torch.int32)
    indices = torch.empty(keys.numel() + 2 * source.numel(), dtype=torch.int32, device=keys.device)
    weights = torch.full(indices.shape, 0.5, device=keys.device)
    own = offsets[:-1].long()
    indices[own] = torch.arange(keys.numel(), dtype=torch.int32, device=keys.device)
    weights[own] = 1.0
    indices[own[source] + 1] = target.int()
    indices[offsets[target + 1].long() - 1] = source.int()
    return Bags(indices, offsets, weights)


def _slice(ids: Tensor, weights: Tensor, dimensions: int) -> Bags:
    corners = dimensions + 1
    # What blurring adds to a constant field on a full lattice.
    gain = 1 / (1 + 2.0**-dimensions)
    offsets = torch.arange(0, ids.numel() + 1, corners, dtype=torch.int32, device=ids.device)
    return Bags(ids, offsets, weights * gain)
