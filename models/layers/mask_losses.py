"""Losses of a network that classifies an image by its own masks, and learns from them (1-Stage, Araslanov and Roth, CVPR 2020).

Channels of scores and masks are the C classes, then background.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.layers.decoders import resize, size_of

# Target of pixels that teach nothing.
IGNORED = 255


def with_background(logits: Tensor, value: float = 1.0) -> Tensor:
    """Return (B, C + 1, h, w): the class logits (B, C, h, w) and a constant background logit, which learns nothing."""
    return torch.cat([logits, torch.full_like(logits[:, :1], value)], dim=1)


def class_scores(logits: Tensor, *, power: float, floor: float) -> Tensor:
    """Return image scores (B, C): normalised global weighted pooling (nGWP) plus the focal size penalty.

    Args:
        logits: (B, C + 1, h, w), see `with_background`.
        power: of the penalty (1 - m)^power log(floor + m), m the mean of the class's mask.
        floor: its lambda, > 0: how much an absent class costs.
    """
    logits = logits.float()
    masks = logits.softmax(dim=1)
    pooled = (logits * masks).sum((2, 3)) / (1 + masks.sum((2, 3)))
    return (pooled + focal_penalty(masks.mean((2, 3)), power=power, floor=floor))[:, :-1]


def focal_penalty(size: Tensor, *, power: float, floor: float) -> Tensor:
    """Return (1 - m)^power log(floor + m) of mask sizes m in [0, 1]."""
    return (1 - size) ** power * torch.log(floor + size)


def multilabel_hinge(scores: Tensor, labels: Tensor) -> Tensor:
    """Return torch's multi-label margin loss of scores (B, C) and labels (B, C), 1 for present classes."""
    order = labels.argsort(dim=1, descending=True, stable=True)
    listed = torch.arange(labels.shape[1], device=labels.device) < labels.sum(dim=1, keepdim=True)
    return F.multilabel_margin_loss(scores, torch.where(listed, order, -1))


def keep_present(masks: Tensor, labels: Tensor) -> Tensor:
    """Return masks (B, C + 1, H, W) with absent classes' set to 0; labels (B, C), background stays."""
    return masks * F.pad(labels, (0, 1), value=1.0)[:, :, None, None].to(masks.dtype)


def relative_labels(masks: Tensor, *, floor: float, background: float, foreground: float) -> Tensor:
    """Return pseudo labels (B, H, W) int64: channels in [0, C], `IGNORED` where none or several stand out.

    Args:
        masks: (B, C + 1, H, W) in [0, 1], absent classes 0.
        floor: a pixel stands out above max(floor, factor x the channel's maximum over the image) (published: 0.2, COCO 0.1),
        background: factor of background (published: 0.7, COCO 0.8),
        foreground: factor of classes (published: 0.6).
    """
    factors = torch.full((masks.shape[1],), foreground, device=masks.device, dtype=masks.dtype)
    factors[-1:] = background  # of one element it would be a copy that waits for the device
    least = (masks.amax((2, 3)) * factors).clamp_min(floor)[:, :, None, None]
    on = masks > least
    return torch.where(on.sum(dim=1) == 1, on.byte().argmax(dim=1), IGNORED)


def balanced_cross_entropy(logits: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """Return each image's class-balanced cross-entropy (B,) against its pseudo labels.

    A pixel weighs (N - n) / (1 + N): N labelled pixels, n of its class; the mean is over all pixels. An image counts only
    where exactly as many channels occur as it has classes, and background: a missing one switches it off.

    Args:
        logits: (B, C + 1, h, w), resized to the target.
        target: (B, H, W) int64 in [0, C], or `IGNORED`.
        labels: (B, C), 1 for present classes.
    """
    channels = logits.shape[1]
    known = target != IGNORED
    places = torch.where(known, target, channels).flatten(1)
    zeros = torch.zeros(len(target), channels + 1, device=logits.device)
    counts = zeros.scatter_add(1, places, torch.ones_like(places, dtype=zeros.dtype))[:, :channels]
    total = counts.sum(dim=1, keepdim=True)
    weights = F.pad((total - counts) / (1 + total), (0, 1))
    loss = F.cross_entropy(resize(logits.float(), size_of(target[:, None])), target, ignore_index=IGNORED, reduction="none")
    complete = (counts > 0).sum(dim=1) == labels.sum(dim=1) + 1
    return complete * (loss.flatten(1) * weights.gather(1, places)).mean(dim=1)
