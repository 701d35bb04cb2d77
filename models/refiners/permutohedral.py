"""The permutohedral lattice: Gaussian filtering of points with any feature vectors, by tensor operations alone.

Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010. Points are spread
onto the corners of the lattice simplex around them (splat), values move along each of the d + 1 lattice directions (blur),
and points read them back (slice). All three are weighted sums of rows, and run as `embedding_bag` on a CPU or on CUDA.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

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


_INT64_BITS = 63


class Vertices:
    """Vertices numbered in the order in which the points first need them, so that points and vertices near each other in their
    lists are used together: that keeps the filter's work within a processor's cache.

    Attributes:
        count: V.
        ids: (d + 1, P) int32, the vertex at each corner of each point's simplex.
        offsets: (V + 1) int64, where each vertex' points start in what `points_by_vertex` returns, and the end.
    """

    def __init__(self, simplices: Simplices) -> None:
        self._simplices = simplices
        self._rows = [_group(keys) for keys in simplices.keys]
        first = torch.cat([row.points.index_select(0, row.starts) for row in self._rows])
        self.count = first.numel()
        self._by_use = sort_with_places(first)[1]
        places = torch.arange(self.count, device=first.device)
        number = torch.empty_like(first).scatter_(0, self._by_use, places)
        self._numbers = number.split([row.keys.numel() for row in self._rows])
        self.ids = torch.empty(simplices.keys.shape, dtype=torch.int32, device=first.device)
        for ids, row, numbers in zip(self.ids, self._rows, self._numbers, strict=True):
            ids.scatter_(0, row.points, numbers.int().index_select(0, row.segments))
        sizes = torch.cat([row.starts.diff(append=row.starts.new_tensor([row.points.numel()])) for row in self._rows])
        self.offsets = starts_of(sizes.index_select(0, self._by_use))

    def points_by_vertex(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points of all vertices in turn, (P * (d + 1)) int32, each with its own of `weights` (d + 1, P)."""
        corners, points = weights.shape
        entries = torch.cat([row.points + corner * points for corner, row in enumerate(self._rows)])
        starts = torch.cat([row.starts + corner * points for corner, row in enumerate(self._rows)])
        # The points of one vertex stay together and move as a block.
        shift = starts.index_select(0, self._by_use) - self.offsets[:-1]
        source = shift.repeat_interleave(self.offsets.diff(), output_size=corners * points)
        source += torch.arange(corners * points, device=weights.device)
        entries = entries.index_select(0, source)
        # A table of remainders is faster than dividing.
        point = torch.arange(points, dtype=torch.int32, device=weights.device).repeat(corners)
        return point.index_select(0, entries), weights.flatten().index_select(0, entries)

    def neighbours(self, direction: int) -> tuple[Tensor, Tensor]:
        """Return pairs of vertices (n), (n) int64: in a direction 0..d, the second of a pair comes right after the first."""
        pairs = []
        for corner, (row, numbers) in enumerate(zip(self._rows, self._numbers, strict=True)):
            following = (corner + 1) % len(self._rows)
            candidates = self._rows[following].keys
            wanted = row.keys + self._simplices.step(corner, direction)
            place = torch.searchsorted(candidates, wanted).clamp_(max=candidates.numel() - 1)
            exists = (candidates.index_select(0, place) == wanted).nonzero().flatten()
            after = self._numbers[following].index_select(0, place.index_select(0, exists))
            pairs.append((numbers.index_select(0, exists), after))
        first, second = zip(*pairs, strict=True)
        return torch.cat(first), torch.cat(second)


class _Row(NamedTuple):
    """Vertices at one corner of all simplices, by key.

    Attributes:
        keys: (v) int64 ascending.
        points: (P) int64 in order of their vertices.
        starts: (v) int64, where each vertex' points start.
        segments: (P) int32, place in `keys` of the vertex of each of `points`.
    """

    keys: Tensor
    points: Tensor
    starts: Tensor
    segments: Tensor


def _group(keys: Tensor) -> _Row:
    ordered, points = sort_with_places(keys)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=fresh[1:])
    starts = fresh.nonzero().flatten()
    return _Row(ordered.index_select(0, starts), points, starts, fresh.cumsum(0, dtype=torch.int32).sub_(1))


def sort_with_places(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return `values` (n) int64 >= 0 in ascending order, and the places (n) int64 they had; equal ones keep their order."""
    bits = values.numel().bit_length()
    if values.device.type != "cpu" or int(values.max()).bit_length() + bits > _INT64_BITS:
        return torch.sort(values, stable=True)
    # NumPy's sort of values alone, with the place in the low bits, takes a quarter of the time of torch.sort.
    packed = (values << bits) | torch.arange(values.numel())
    packed = torch.from_numpy(np.sort(packed.numpy()))
    return packed >> bits, packed & ((1 << bits) - 1)


def starts_of(sizes: Tensor) -> Tensor:
    """Return (n + 1) int64: where each of n blocks of the given sizes (n) int64 starts, and the end."""
    return torch.nn.functional.pad(sizes.cumsum(0), (1, 0))


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
