"""IRNet's random walk: CAMs spread along a picture's boundaries, within objects and not across (Ahn et al., CVPR 2019).

A step of the walk goes from a cell to those nearby, the likelier the lower the highest boundary on the way. As published the
matrix T of all cells is squared eight times; here its 34 pairs of diagonals are kept, as weights of shifted maps, and the 256
steps of a few maps are taken in about 100: T^n is a sum of so many Chebyshev polynomials of T, and coefficients beyond are too
small to matter. The result is the published one but for rounding, and closer to the exact one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from configs.fields import COUNT, POSITIVE, Range, key
from models.layers.pixel_pairs import CELL, affinities, pixel_pairs, reach_of

# What the terms left out sum up to at most, of a largest value of 1.
TAIL = 1e-8
CROSSED = 1.0


@dataclass
class RandomWalkSettings:
    """Section `random_walk`. Defaults are the published values."""

    boundary_dir: str = key("${boundaries.dir}", "folder of <id>.npz, from scripts.make_boundaries", filled=True)
    beta: float = key(10.0, "power of the affinities: the higher, the less crosses a faint boundary", within=POSITIVE)
    exp_times: int = key(8, "the walk has 2^exp_times steps (published: 8, so 256)", within=Range(0, 16))
    radius: int = key(5, "distance below which cells of 4 pixels are neighbours", within=COUNT)
    maximum: str = key(
        "all",
        "what walked CAMs are divided by: all: the maximum over the picture's classes (published: a weak class may vanish "
        "against the background score); class: each one's own",
        ("all", "class"),
    )


def random_walk(maps: Tensor, boundary: Tensor, *, beta: float = 10.0, steps: int = 256, radius: int = 5) -> Tensor:
    """Walk `steps` steps from every cell; what a cell gets is a weighted mean of the maps' values around it.

    Args:
        maps: (B, K, H, W) float32, any values; a cell on a boundary starts with that much less.
        boundary: (B, 1, H, W) in [0, 1].
        beta: power of the affinities, > 0.
        steps: of the walk, >= 0.
        radius: distance below which cells are neighbours.

    Returns:
        (B, K, H, W) float32.

    Raises:
        ValueError: for maps of different sizes, or values that are not finite.
    """
    if maps.shape[2:] != boundary.shape[2:] or len(maps) != len(boundary):
        found, expected = tuple(maps.shape), tuple(boundary.shape)
        raise ValueError(f"maps of shape {found} do not lie on boundaries of shape {expected}; make them of the same pictures")
    if not bool(maps.isfinite().all() and boundary.isfinite().all()):
        raise ValueError("maps or boundaries hold NaN or infinite values")
    flow = _Flow(boundary.float(), beta, radius)
    now = flow.laid_out(maps.float() * (1 - boundary.float()))
    coefficients = chebyshev_of_power(steps)
    total, change = coefficients[0] * now, torch.zeros_like(now)
    # T_k+1 = T_k + change, the change by twice what flows: sums of small differences, which rounding hardly touches.
    for number, coefficient in enumerate(coefficients[1:]):
        change.add_(flow(now), alpha=1 if number == 0 else 2)
        now = now + change
        if coefficient:
            total.add_(now, alpha=coefficient)
    return flow.picture(total)


@cache
def chebyshev_of_power(power: int, tail: float = TAIL) -> tuple[float, ...]:
    """Return a_0, a_1, ... of x^power = sum of a_k T_k(x); the a_k sum up to 1, and the last ones, below `tail` together, are
    left out."""
    found = [0.0] * (power + 1)
    for k in range(power % 2, power + 1, 2):
        # 2^(1 - n) binomial(n, (n - k) / 2), half of that for k = 0.
        found[k] = math.comb(power, (power - k) // 2) * (1 if k == 0 else 2) / 2**power
    left = 0.0
    while len(found) > 1 and left + found[-1] < tail:
        left += found.pop()
    return tuple(found)


class _Flow:
    """What one step of the walk changes, x T - x with the published T, on maps laid out as rows one after the other.

    Between two rows is room for the widest step, so that a neighbour is at the same distance in memory everywhere.
    """

    def __init__(self, boundary: Tensor, beta: float, radius: int) -> None:
        self.reach, self.size = reach_of(radius), boundary.shape[2:]
        room = (self.reach, self.reach)
        # The way out of the picture crosses a boundary.
        weights = affinities(F.pad(boundary, (*room, 0, self.reach), value=CROSSED), radius) ** beta
        self.weights = F.pad(weights.unflatten(2, self.size), room).flatten(2)
        stride = self.size[1] + 2 * self.reach
        self.moves = [dy * stride + dx for dy, dx in (pair.offset for pair in pixel_pairs(radius))]
        self.sums = torch.ones_like(self.weights[:, :1])
        for weight, near, far in self._ways():
            self.sums[..., near] += weight
            self.sums[..., far] += weight

    def laid_out(self, maps: Tensor) -> Tensor:
        """Return (B, K, L) of (B, K, H, W)."""
        return F.pad(maps, (self.reach, self.reach)).flatten(2)

    def picture(self, x: Tensor) -> Tensor:
        """Return (B, K, H, W) of (B, K, L)."""
        return x.unflatten(2, (self.size[0], -1))[..., self.reach : self.reach + self.size[1]]

    def __call__(self, x: Tensor) -> Tensor:
        """Map (B, K, L) to what each cell gains."""
        gain = torch.zeros_like(x)
        for weight, near, far in self._ways():
            flows = (x[..., far] - x[..., near]).mul_(weight)
            gain[..., near] += flows
            gain[..., far] -= flows
        return gain.div_(self.sums)

    def _ways(self) -> Iterator[tuple[Tensor, slice, slice]]:
        """Yield the affinities (B, 1, M) of all pairs of one kind, and where their two cells are."""
        length = self.weights.shape[2]
        for number, move in enumerate(self.moves):
            yield self.weights[:, number, None, : length - move], slice(0, length - move), slice(move, length)


@dataclass(frozen=True)
class RandomWalk:
    """The walk as a refiner of CAMs (see `models.refiners.CamRefiner`).

    Attributes:
        beta, steps, radius: as of `random_walk`.
        per_class: each class is divided by its own maximum, not by that of all.
        boundary_dir: where the boundaries are, for the programs.
    """

    beta: float
    steps: int
    radius: int
    per_class: bool
    boundary_dir: str
    device: str | None = None

    section: ClassVar[str] = "random_walk"
    Settings: ClassVar[type] = RandomWalkSettings

    @classmethod
    def from_settings(cls, settings: RandomWalkSettings, *, mean: Sequence[float], device: str | None) -> "RandomWalk":
        """Return the walk section `random_walk` describes."""
        s = settings
        return cls(s.beta, 2**s.exp_times, s.radius, s.maximum == "class", s.boundary_dir, device)

    def refine_cams(
        self, cams: NDArray[np.float32], boundary: NDArray[np.float32], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Return CAMs (K, H, W) in [0, 1], 1 where a picture's classes, or each class, are strongest.

        Args:
            cams: (K, h, w) in [0, 1], h = ceil(H / 4).
            boundary: (h, w) in [0, 1].
            size: (H, W) of the picture.

        Raises:
            ValueError: as of `random_walk`.
        """
        given = [torch.from_numpy(np.require(a, np.float32, ["C", "W"])).to(self.device) for a in (cams, boundary)]
        walked = random_walk(given[0][None], given[1][None, None], beta=self.beta, steps=self.steps, radius=self.radius)
        return enlarged(walked, size, per_class=self.per_class)[0].cpu().numpy()

    def settings(self) -> dict[str, Any]:
        """Return what a score file should state of it."""
        return {
            "beta": self.beta, "steps": self.steps, "radius": self.radius, "maximum": "class" if self.per_class else "all"
        }  # fmt: skip


def enlarged(maps: Tensor, size: tuple[int, int], *, per_class: bool) -> Tensor:
    """Return walked maps (B, K, h, w) at the picture's `size` (H, W), divided by their maximum; what is 0 stays 0."""
    whole = F.interpolate(maps, scale_factor=CELL, mode="bilinear", align_corners=False)[..., : size[0], : size[1]]
    largest = whole.amax(dim=(2, 3) if per_class else (1, 2, 3), keepdim=True)
    return whole / largest.clamp_min(torch.finfo(whole.dtype).tiny)
