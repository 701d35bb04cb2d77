"""Merging the score maps of several scales and their mirror images into one CAM per present class.

Follows the published inference: every map is resized to the image (bicubic, align_corners False), the mean over scales and
flips is taken, negatives are cut and each class is divided by its maximum. Flip pairs are averaged before resizing
instead of after it: the resizing is linear and symmetric, so only float rounding differs, at half the work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.cams.dictionaries import CELL
from utils.data.classes import BACKGROUND, label_value
from utils.data.images import MAX_GREY
from utils.files import atomic_path

EPSILON = 1e-8


def with_mirrored(images: Tensor) -> Tensor:
    """Return (2 B, 3, H, W): the images (B, 3, H, W), then their horizontal mirror images."""
    return torch.cat([images, images.flip(-1)])


def average_mirrored(score_maps: Tensor) -> Tensor:
    """Undo `with_mirrored` on its score maps: (2 B, C, h, w) -> (B, C, h, w), the mean of each pair, the second un-mirrored."""
    straight, mirrored = score_maps.chunk(2)
    return (straight + mirrored.flip(-1)) / 2


def merge_scales(score_maps: Sequence[Tensor], size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Return the mean (P, H, W) of P score maps seen at several scales, in float32.

    Args:
        score_maps: one (P, h_s, w_s) tensor per scale, flips already averaged.
        size: (H, W) of the image, pixels.
        mode: how they are resized: bicubic (published for scores) or bilinear (published for masks, which then stay in [0, 1]).
    """
    total = torch.zeros(score_maps[0].shape[0], *size, device=score_maps[0].device)
    for maps in score_maps if len(total) else ():  # an image of no class has no map to resize
        total += F.interpolate(maps[None].float(), size=size, mode=mode, align_corners=False)[0]
    return total / len(score_maps)


def pad_centred(images: Tensor, size: Sequence[int]) -> tuple[Tensor, tuple[int, int]]:
    """Centre images (B, 3, h, w) in a canvas (H, W) of zeros, the mean colour; return it and their (row, column)."""
    height, width = images.shape[2:]
    if height > size[0] or width > size[1]:
        raise ValueError(
            f"a scaled image has {height} x {width} pixels, more than cam.pad_size ({size[0]} x {size[1]}); set a larger one, "
            "smaller cam.scales, or cam.pad_size=[] for none"
        )
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return F.pad(images, (left, size[1] - width - left, top, size[0] - height - top)), (top, left)


def crop_starts(whole: int, crop: int, count: int) -> list[int]:
    """Return where `count` crops of a side begin: ceil(whole / count) apart, the last ones moved back inside (published)."""
    return [min(number * -(-whole // count), whole - crop) for number in range(count)]


def normalise_cams(merged: Tensor) -> Tensor:
    """Return CAMs (P, H, W) in [0, 1]: negatives cut, each map divided by its maximum; a map without positives stays 0."""
    positive = merged.clamp_min(0)
    return positive / (positive.amax(dim=(1, 2), keepdim=True) + EPSILON)


def quantise_cams(cams: Tensor) -> Tensor:
    """Return uint8 CAMs of CAMs in [0, 1]: times 255, rounded half to even, saturated."""
    return (cams * MAX_GREY).round_().clamp_(0, MAX_GREY).to(torch.uint8)


def cams_to_labels(cams: Tensor, classes: Sequence[int], threshold: float | Tensor) -> Tensor:
    """Return the label map (H, W) uint8 of one image: the largest of `threshold` (background) and the present classes' CAMs.

    Ties go to background, then to the lower class.

    Args:
        cams: (K, H, W) in [0, 1], one for each of `classes`.
        classes: the image's K present classes, 0-based ascending; none: everything is background.
        threshold: background score in [0, 1], one or a map (H, W).
    """
    if not classes:
        return torch.full(cams.shape[1:], BACKGROUND, dtype=torch.uint8, device=cams.device)
    value, position = cams.max(dim=0)
    values = to_device(torch.tensor([label_value(k) for k in classes], dtype=torch.uint8), cams.device)
    return torch.where(value > threshold, values[position], torch.full_like(values[:1], BACKGROUND))


def to_device(small: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor without waiting for the work queued on `device` (`torch.tensor(..., device=)` would wait)."""
    return small.to(device, non_blocking=True)


def predict_classes(logits: Tensor, threshold: float, *, one_at_least: bool = True) -> list[tuple[int, ...]]:
    """Return each image's classes with a probability above `threshold`, 0-based ascending.

    Args:
        logits: (B, C), the mean or maximum over scales and flips.
        threshold: probability in [0, 1].
        one_at_least: the most probable class is present whatever its probability.
    """
    present = logits.float().sigmoid() > threshold
    if one_at_least:
        present[torch.arange(len(logits), device=logits.device), logits.argmax(dim=1)] = True
    return [tuple(torch.nonzero(row)[:, 0].tolist()) for row in present.cpu()]


REFINE_EPSILON = 1e-5
# What the full size is rounded up to before it is cut.
ALIGNMENT = 16


@dataclass(frozen=True)
class SeedMaps:
    """Maps in [0, 1] of an image's K present classes: `low` (K, ceil(H/4), ceil(W/4)), `high` (K, H, W), float32."""

    low: Tensor
    high: Tensor


def add_mirrored(score_maps: Tensor) -> Tensor:
    """Cut negatives and add each map and its mirror image un-mirrored: (2 B, C, h, w), the mirrored ones second -> (B, ...)."""
    straight, mirrored = score_maps.float().clamp_min(0).chunk(2)
    return straight + mirrored.flip(-1)


def seed_maps(score_maps: Sequence[Tensor], size: tuple[int, int]) -> SeedMaps:
    """Merge one image's maps of several scales.

    Args:
        score_maps: one (K, h_s, w_s) tensor a scale, present classes only, from `add_mirrored` (or negatives cut).
        size: (H, W) of the image, pixels.
    """
    low = _sum_at(score_maps, (_ceil(size[0], CELL), _ceil(size[1], CELL)))
    full = _sum_at(score_maps, (_ceil(size[0], ALIGNMENT) * ALIGNMENT, _ceil(size[1], ALIGNMENT) * ALIGNMENT))
    return SeedMaps(_normalised(low), _normalised(full[:, : size[0], : size[1]]))


def write_seed_maps(path: Path, classes: Sequence[int], maps: SeedMaps) -> None:
    """Write `<id>.npz` (no pickle): `classes` (K,) 0-based, `labels` (K + 1,) label values with background first, `cam`
    (float32, small maps: what a random walk starts from) and `high_res` (float16)."""
    labels = [BACKGROUND, *(label_value(k) for k in classes)]
    with atomic_path(path, sync=False) as temporary:
        np.savez(
            temporary,
            classes=np.array(classes, np.int64),
            labels=np.array(labels, np.int64),
            cam=maps.low.cpu().numpy(),
            high_res=maps.high.cpu().numpy().astype(np.float16),
        )


def _sum_at(score_maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    if not len(score_maps[0]):  # an image of no class has no map to resize
        return score_maps[0].new_zeros(0, *size)
    resized = [F.interpolate(m[None], size=size, mode="bilinear", align_corners=False)[0] for m in score_maps]
    return torch.stack(resized).sum(dim=0)


def _normalised(maps: Tensor) -> Tensor:
    return maps / (maps.amax(dim=(1, 2), keepdim=True) + REFINE_EPSILON)


def _ceil(value: int, step: int) -> int:
    return -(-value // step)
