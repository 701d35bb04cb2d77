"""Pairs of nearby pixels and the paths between them: what IRNet (Ahn et al., CVPR 2019) learns from and walks along."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

Point = tuple[int, int]
# Input pixels per cell of the maps that pairs are of.
CELL = 4
EPSILON = 1e-5


@dataclass(frozen=True)
class Pair:
    """A pixel and another one at `offset` (dy, dx) from it; `path`: points (y, x) of the way, the other pixel first."""

    offset: Point
    path: tuple[Point, ...]


@cache
def pixel_pairs(radius: int) -> tuple[Pair, ...]:
    """Return all pairs at a distance below `radius` pixels, each once: (0, 1), ... and those in the rows below.

    The order is the published one: by the number of points on the path, then row by row. A path holds the points less than one
    pixel from the straight line, inside of the rectangle that the two pixels span. Radius 5 has 34 pairs, radius 10 has 152.
    """
    reach = reach_of(radius)
    offsets = [(0, dx) for dx in range(1, radius)]
    offsets += [(dy, dx) for dy in range(1, radius) for dx in range(-reach, reach + 1) if dy * dy + dx * dx < radius * radius]
    return tuple(sorted((Pair(offset, _path(*offset)) for offset in offsets), key=lambda pair: len(pair.path)))


def reach_of(radius: int) -> int:
    """Return the largest step along a row or column of `pixel_pairs`."""
    return math.ceil(radius) - 1


def _path(dy: int, dx: int) -> tuple[Point, ...]:
    rows, columns = (range(min(0, step), max(0, step) + 1) for step in (dy, dx))
    near = [(y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < dy * dy + dx * dx]
    return tuple(sorted(near, key=lambda point: -abs(point[0]) - abs(point[1])))


class Windows:
    """A map (B, D, H, W) seen from every pixel whose pairs all lie inside of it: rows 0 .. H - R - 1, columns R .. W - R - 1.

    Args:
        values: the map.
        radius: of the pairs, R + 1; the map must be larger than R x 2 R.

    Raises:
        ValueError: for a map that is too small.
    """

    def __init__(self, values: Tensor, radius: int) -> None:
        self.values, self.reach = values, reach_of(radius)
        self.rows, self.columns = values.shape[2] - self.reach, values.shape[3] - 2 * self.reach
        if self.rows < 1 or self.columns < 1:
            raise ValueError(
                f"a map of {values.shape[2]} x {values.shape[3]} cells has no pixel with neighbours {self.reach} cells away on "
                "all sides; use larger views"
            )
        self._seen: dict[Point, Tensor] = {}

    def at(self, point: Point) -> Tensor:
        """Return (B, D, S): the values at `point` (dy, dx) from each of the S pixels, row by row."""
        if point not in self._seen:
            y, x = point[0], point[1] + self.reach
            self._seen[point] = self.values[:, :, y : y + self.rows, x : x + self.columns].flatten(2)
        return self._seen[point]

    def others(self, radius: int) -> Tensor:
        """Return (B, D, P, S): the values at the other pixel of each pair."""
        return torch.stack([self.at(pair.offset) for pair in pixel_pairs(radius)], dim=2)


def affinities(boundary: Tensor, radius: int) -> Tensor:
    """Return (B, P, S): 1 - the largest boundary probability on the way between the two pixels of each pair, ends included.

    Args:
        boundary: (B, 1, H, W) in [0, 1].
        radius: of the pairs, cells.
    """
    seen = Windows(boundary, radius)
    crossed = [torch.stack([seen.at(p)[:, 0] for p in pair.path]).max(dim=0).values for pair in pixel_pairs(radius)]
    return 1 - torch.stack(crossed, dim=1)


@dataclass(frozen=True)
class PairLabels:
    """What label maps say of pairs, each (B, P, S) bool: both background, both of one class, of two classes."""

    background: Tensor
    foreground: Tensor
    different: Tensor


def pair_labels(labels: Tensor, radius: int, num_classes: int) -> PairLabels:
    """Return what label maps (B, H, W), 0 background to `num_classes`, others unknown, say of their pairs."""
    seen = Windows(labels[:, None], radius)
    own, other = seen.at((0, 0))[:, 0, None], seen.others(radius)[:, 0]
    known, equal = (own <= num_classes) & (other <= num_classes), own == other
    return PairLabels(known & equal & (own == 0), known & equal & (own > 0), known & ~equal)


def pair_losses(boundary: Tensor, displacement: Tensor, labels: PairLabels, radius: int) -> Mapping[str, Tensor]:
    """Return the four losses of IRNet: pos (like pairs should have no boundary between them), neg (unlike pairs one), dp_fg
    (the displacements of pixels of one object differ by their offset), dp_bg (those of background are equal).

    Each is a mean over the pairs of the whole batch that it is about; 0 where there are none.

    Args:
        boundary: (B, 1, H, W) in [0, 1].
        displacement: (B, 2, H, W), rows and columns, cells.
        labels: of the pairs.
        radius: of the pairs.
    """
    affinity, moved = affinities(boundary, radius), pair_displacements(displacement, radius)
    like = -(affinity + EPSILON).log()
    unlike = -(1 + EPSILON - affinity).log()
    to_object, still = (moved - offsets(radius, moved)).abs().sum(dim=1), moved.abs().sum(dim=1)
    return {
        "pos": _mean(like, labels.background) / 2 + _mean(like, labels.foreground) / 2,
        "neg": _mean(unlike, labels.different),
        "dp_fg": _mean(to_object, labels.foreground, values=2),
        "dp_bg": _mean(still, labels.background, values=2),
    }


def pair_displacements(displacement: Tensor, radius: int) -> Tensor:
    """Return (B, 2, P, S): the displacement of a pixel minus that of the other one of each pair."""
    seen = Windows(displacement, radius)
    return seen.at((0, 0))[:, :, None] - seen.others(radius)


def offsets(radius: int, like: Tensor) -> Tensor:
    """Return (1, 2, P, 1): the offsets (dy, dx) of the pairs, of the type and device of `like`."""
    listed = torch.tensor([pair.offset for pair in pixel_pairs(radius)]).T[None, :, :, None]
    return listed.to(like, non_blocking=True)  # made on the device it would wait for the work queued there


def _mean(loss: Tensor, chosen: Tensor, values: int = 1) -> Tensor:
    """Return the mean over chosen pairs of a loss that sums up so many values of each."""
    return (loss * chosen).sum() / (values * chosen.sum() + EPSILON)
