"""The vertices of a permutohedral lattice that points need, and who neighbours whom (Adams et al. 2010, sections 3 and 4).

The published code keeps vertices in a hash table; here, sorting and searching take its place. Written for speed on one CPU
thread: `index_select` and `scatter_` take a fifth of the time of indexing by `[]`.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.permutohedral_simplex import Simplices

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
