"""Merging the score maps of several scales and their mirror images into one CAM per present class.

Follows the published inference: every map is resized to the image (bicubic, align_corners False), the mean over scales and
flips is taken, negatives are cut and each class is divided by its maximum. Flip pairs are averaged before resizing
instead of after it: the resizing is linear and symmetric, so only float rounding differs, at half the work.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.classes import BACKGROUND, label_value

EPSILON = 1e-8
LEVELS = 255


def with_mirrored(images: Tensor) -> Tensor:
    """Return (2 B, 3, H, W): the images (B, 3, H, W), then their horizontal mirror images."""
    return torch.cat([images, images.flip(-1)])


def average_mirrored(score_maps: Tensor) -> Tensor:
    """Undo `with_mirrored` on its score maps: (2 B, C, h, w) -> (B, C, h, w), the mean of each pair, the second un-mirrored."""
    straight, mirrored = score_maps.chunk(2)
    return (straight + mirrored.flip(-1)) / 2


def merge_scales(score_maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Return the mean (P, H, W) of P score maps seen at several scales, in float32.

    Args:
        score_maps: one (P, h_s, w_s) tensor per scale, flips already averaged.
        size: (H, W) of the image, pixels.
    """
    total = torch.zeros(score_maps[0].shape[0], *size, device=score_maps[0].device)
    for maps in score_maps:
        total += F.interpolate(maps[None].float(), size=size, mode="bicubic", align_corners=False)[0]
    return total / len(score_maps)


def normalise_cams(merged: Tensor) -> Tensor:
    """Return CAMs (P, H, W) in [0, 1]: negatives cut, each map divided by its maximum; a map without positives stays 0."""
    positive = merged.clamp_min(0)
    return positive / (positive.amax(dim=(1, 2), keepdim=True) + EPSILON)


def quantise_cams(cams: Tensor) -> Tensor:
    """Return uint8 CAMs of CAMs in [0, 1]: times 255, rounded half to even, saturated."""
    return (cams * LEVELS).round_().clamp_(0, LEVELS).to(torch.uint8)


def cams_to_labels(cams: Tensor, classes: Sequence[int], threshold: float) -> Tensor:
    """Return the label map (H, W) uint8 of one image: the largest of `threshold` (background) and the present classes' CAMs.

    Ties go to background, then to the lower class.

    Args:
        cams: (K, H, W) in [0, 1], one for each of `classes`.
        classes: the image's K present classes, 0-based ascending; K >= 1.
        threshold: background score in [0, 1].
    """
    value, position = cams.max(dim=0)
    values = to_device(torch.tensor([label_value(k) for k in classes], dtype=torch.uint8), cams.device)
    return torch.where(value > threshold, values[position], torch.full_like(values[:1], BACKGROUND))


def to_device(small: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor without waiting for the work queued on `device` (`torch.tensor(..., device=)` would wait)."""
    return small.to(device, non_blocking=True)


def predict_classes(logits: Tensor, threshold: float) -> list[tuple[int, ...]]:
    """Return each image's classes with a probability above `threshold`, 0-based ascending; the most probable one at least.

    Args:
        logits: (B, C), the mean over scales and flips.
        threshold: probability in [0, 1].
    """
    present = logits.float().sigmoid() > threshold
    present[torch.arange(len(logits), device=logits.device), logits.argmax(dim=1)] = True
    return [tuple(torch.nonzero(row)[:, 0].tolist()) for row in present.cpu()]
