"""The vertices of a permutohedral lattice that points need, and who neighbours whom (Adams et al. 2010, sections 3 and 4).

The published code keeps vertices in a hash table; here, sorting and searching take its place.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from utils.permutohedral_simplex import Simplices


class Vertices:
    """Vertices numbered in the order in which the points first need them, so that points and vertices near each other in their
    lists are used together: that keeps the filter's work within a processor's cache.

    Attributes:
        count: V.
        ids: (P, d + 1) int32, the vertex at each corner of each point's simplex.
        offsets: (V + 1) int32, where each vertex' points start in what `points_by_vertex` returns, and the end.
    """

    def __init__(self, simplices: Simplices) -> None:
        self._simplices = simplices
        self._rows = [_sort(keys) for keys in simplices.keys]
        self._numbers = _number_by_use(self._rows)
        self.count = sum(numbers.numel() for numbers in self._numbers)
        sizes = torch.empty(self.count + 1, dtype=torch.int32, device=simplices.keys.device)
        sizes[0] = 0
        self.ids = torch.empty(simplices.keys.shape[::-1], dtype=torch.int32, device=simplices.keys.device)
        for corner, (row, numbers) in enumerate(zip(self._rows, self._numbers, strict=True)):
            sizes[numbers + 1] = row.starts.diff(append=row.starts.new_tensor([row.points.numel()])).int()
            self.ids[row.points, corner] = numbers.index_select(0, row.segments)
        self.offsets = sizes.cumsum(0, dtype=torch.int32)

    def points_by_vertex(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points of all vertices in turn, (P * (d + 1)) int32, and which of `weights` (d + 1, P) each of them has."""
        points = torch.empty(weights.numel(), dtype=torch.int32, device=weights.device)
        sorted_weights = torch.empty_like(weights).flatten()
        place = torch.arange(weights.shape[1], device=weights.device)
        for row, numbers, of_row in zip(self._rows, self._numbers, weights, strict=True):
            # The points of one vertex stay together and move as a block.
            shift = self.offsets.index_select(0, numbers) - row.starts
            target = place + shift.index_select(0, row.segments)
            points[target] = row.points.int()
            sorted_weights[target] = of_row.index_select(0, row.points)
        return points, sorted_weights

    def neighbours(self, direction: int) -> tuple[Tensor, Tensor]:
        """Return the vertex before and after each in a direction 0..d; both (V) int32, V where there is none."""
        after = torch.full((self.count,), self.count, dtype=torch.int32, device=self.ids.device)
        before = after.clone()
        for corner, (row, numbers) in enumerate(zip(self._rows, self._numbers, strict=True)):
            following = (corner + 1) % len(self._rows)
            candidates = self._rows[following].keys
            wanted = row.keys + self._simplices.step(corner, direction)
            place = torch.searchsorted(candidates, wanted, out_int32=True).clamp_(max=candidates.numel() - 1)
            source = (candidates.index_select(0, place) == wanted).nonzero().flatten()
            target = self._numbers[following].index_select(0, place.index_select(0, source))
            source = numbers.index_select(0, source)
            after[source] = target
            before[target] = source
        return before, after


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


def _sort(keys: Tensor) -> _Row:
    ordered, points = torch.sort(keys, stable=True)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=fresh[1:])
    starts = fresh.nonzero().flatten()
    return _Row(ordered[starts], points, starts, fresh.cumsum(0, dtype=torch.int32).sub_(1))


def _number_by_use(rows: list[_Row]) -> list[Tensor]:
    """Return the number (v) int32 of each row's vertices; rows share none."""
    first = torch.cat([row.points[row.starts] for row in rows]).int()
    by_use = first.sort(stable=True).indices
    number = torch.empty_like(first)
    number[by_use] = torch.arange(first.numel(), dtype=torch.int32, device=first.device)
    return list(number.split([row.keys.numel() for row in rows]))
