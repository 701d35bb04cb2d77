"""Class maps for refinement networks (AffinityNet, IRN): not quantised, at a quarter of the size and at full size.

They differ from the PNGs: negatives are cut *before* scales and mirror images are added, and resizing is bilinear.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from utils.classes import BACKGROUND, label_value
from utils.files import atomic_path

EPSILON = 1e-5
# Input pixels per cell of the small maps (IRN's grid), and what the full size is rounded up to before it is cut.
CELL, ALIGNMENT = 4, 16


@dataclass(frozen=True)
class RefineMaps:
    """Maps in [0, 1] of an image's K present classes: `low` (K, ceil(H/4), ceil(W/4)), `high` (K, H, W), float32."""

    low: Tensor
    high: Tensor


def add_mirrored(score_maps: Tensor) -> Tensor:
    """Cut negatives and add each map and its mirror image un-mirrored: (2 B, C, h, w), the mirrored ones second -> (B, ...)."""
    straight, mirrored = score_maps.float().clamp_min(0).chunk(2)
    return straight + mirrored.flip(-1)


def refine_maps(score_maps: Sequence[Tensor], size: tuple[int, int]) -> RefineMaps:
    """Merge one image's maps of several scales.

    Args:
        score_maps: one (K, h_s, w_s) tensor a scale, present classes only, from `add_mirrored` (or negatives cut).
        size: (H, W) of the image, pixels.
    """
    low = _sum_at(score_maps, (_ceil(size[0], CELL), _ceil(size[1], CELL)))
    full = _sum_at(score_maps, (_ceil(size[0], ALIGNMENT) * ALIGNMENT, _ceil(size[1], ALIGNMENT) * ALIGNMENT))
    return RefineMaps(_normalised(low), _normalised(full[:, : size[0], : size[1]]))


def write_refine_maps(path: Path, classes: Sequence[int], maps: RefineMaps) -> None:
    """Write `<id>.npz` (no pickle): `classes` (K,) 0-based, `labels` (K + 1,) label values with background first, `cam`
    (float16, small maps) and `high_res` (float16)."""
    labels = [BACKGROUND, *(label_value(k) for k in classes)]
    with atomic_path(path, sync=False) as temporary:
        np.savez(
            temporary,
            classes=np.array(classes, np.int64),
            labels=np.array(labels, np.int64),
            cam=_half(maps.low),
            high_res=_half(maps.high),
        )


def _half(maps: Tensor) -> NDArray[np.float16]:
    return maps.cpu().numpy().astype(np.float16)


def _sum_at(score_maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    resized = [F.interpolate(m[None], size=size, mode="bilinear", align_corners=False)[0] for m in score_maps]
    return torch.stack(resized).sum(dim=0)


def _normalised(maps: Tensor) -> Tensor:
    return maps / (maps.amax(dim=(1, 2), keepdim=True) + EPSILON)


def _ceil(value: int, step: int) -> int:
    return -(-value // step)
