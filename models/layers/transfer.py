"""Local-to-global attention transfer (L2G, CVPR 2022): views, transfer target, RoI alignment and the losses' pieces.

Everything here is a pure function on tensors. B images, K patches each, C foreground classes; the background channel is the
last one (index C) of every score map.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# The published guard against division by an empty map.
_PEAK_EPSILON = 1e-8


def extract_patches(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut the local views out of the global ones.

    Args:
        images: (B, D, S, S).
        boxes: (B, K, 4) integers on the CPU, [x1, y1, x2, y2] in pixels with x2 - x1 = y2 - y1 = size.
        size: side of a patch in pixels.

    Returns:
        (B * K, D, size, size), patches of one image next to each other.
    """
    corners = boxes[..., :2].tolist()
    views = [image[:, y : y + size, x : x + size] for image, rows in zip(images, corners, strict=True) for x, y in rows]
    return torch.stack(views)


def patch_attention(score_map: Tensor, labels: Tensor, *, per_image: bool = False, drop_background: bool = False) -> Tensor:
    """Turn score maps into attention in [0, 1]: ReLU, division by the channel's maximum, absent classes set to zero.

    Args:
        score_map: (B * K, C + 1, h, w).
        labels: (B, C), 1 where the image holds the class.
        per_image: divide by the maximum over all K patches of the image. The published rule divides by each patch's own
            maximum, which lifts the noise of a patch without the object to full height.
        drop_background: also zero the background channel, which the published losses never train.

    Returns:
        (B * K, C + 1, h, w) float32.
    """
    attention = score_map.float().clamp_min(0)
    images, patches = labels.shape[0], score_map.shape[0] // labels.shape[0]
    peak = attention.amax(dim=(2, 3))
    if per_image:
        peak = peak.view(images, patches, -1).amax(dim=1, keepdim=True).expand(-1, patches, -1).flatten(0, 1)
    background = labels.new_full((images, 1), 0.0 if drop_background else 1.0)
    present = torch.cat([labels, background], dim=1).repeat_interleave(patches, dim=0)
    return attention * (present / (peak + _PEAK_EPSILON))[:, :, None, None]


def winner_map(attention: Tensor) -> Tensor:
    """Keep the largest channel of each cell of (N, C + 1, h, w) and zero the others; the lowest index wins ties."""
    attention = attention.detach()
    if attention.device.type == "cpu":
        # Without the index it takes a third of the time. A tie would be kept twice; the sum tells.
        value = attention.amax(dim=1, keepdim=True)
        kept = torch.ge(attention, value, out=torch.empty_like(attention)).mul_(value)
        if torch.equal(kept.sum(dim=1, keepdim=True), value):
            return kept
    value, channel = attention.max(dim=1, keepdim=True)
    return torch.zeros_like(attention).scatter_(1, channel, value)


def transfer_target(
    attention: Tensor,
    saliency: Tensor | None,
    *,
    threshold: float,
    background_target: str = "indicator",
) -> Tensor:
    """Build what the global network learns: the winning channel of each cell, its height set by saliency.

    At a cell won by class k with a value above `threshold` the target is s at k and 0 elsewhere; so the published target is
    no distribution. The background channel is, by `background_target`:

    - indicator (published, VOC): 1[T > threshold] (1 - s) where background wins;
    - value (published, COCO): T (1 - s) where background wins;
    - complement: 1 - s everywhere, so that the target sums to one wherever a class wins.

    Args:
        attention: (N, C + 1, h, w) from `patch_attention`.
        saliency: (N, 1, h, w) in [0, 1]; None returns the winner map itself (published no-saliency variant).
        threshold: of the winner's value, >= 0.

    Returns:
        (N, C + 1, h, w) float32 without gradient.
    """
    target = winner_map(attention)
    if saliency is None:
        return target
    absent, won = 1 - saliency, target[:, -1:].clone()
    background = {"indicator": (won > threshold) * absent, "value": won * absent, "complement": absent}[background_target]
    torch.gt(target, threshold, out=target).mul_(saliency)
    target[:, -1:] = background
    return target


def background_loss(score_map: Tensor, saliency: Tensor | None) -> Tensor:
    """Teach the background channel where no object is; it weighs as much as one class of the classification loss.

    The published losses leave this channel a random projection. Binary cross-entropy of its sigmoid against 1 - s in each
    cell; without saliency against 1 for each view's mean, as if background were a class every view holds.

    Args:
        score_map: (N, C + 1, h, w) of the local network; gradient flows into all of it.
        saliency: (N, 1, h, w) in [0, 1], or None.

    Returns:
        a scalar, the mean divided by C.
    """
    scores = score_map[:, -1:].float()
    if saliency is None:
        scores = scores.mean(dim=(2, 3))
    target = torch.ones_like(scores) if saliency is None else 1 - saliency
    return F.binary_cross_entropy_with_logits(scores, target) / (score_map.shape[1] - 1)


def align_to_patches(score_map: Tensor, boxes: Tensor, size: tuple[int, int], *, stride: int, aligned: bool = False) -> Tensor:
    """Sample the global score map on the grid of each local view (RoIAlign).

    Args:
        score_map: (B, C + 1, H, W) of the global network.
        boxes: (B, K, 4) in input pixels.
        size: (h, w) of the local score maps.
        stride: input pixels per cell.
        aligned: half-pixel correction. The published call has none: the map is shifted by half a cell and smoothed 2 x 2.

    Returns:
        (B * K, C + 1, h, w) float32.
    """
    images, patches = boxes.shape[:2]
    flat = boxes.reshape(-1, 4).to(score_map.device, non_blocking=True).float()
    index = torch.arange(images, device=score_map.device, dtype=torch.float32).repeat_interleave(patches)
    rois = torch.cat([index[:, None], flat], dim=1)
    from torchvision.ops import roi_align  # here: torchvision takes as long to load as torch itself

    return roi_align(score_map.float(), rois, size, spatial_scale=1 / stride, sampling_ratio=-1, aligned=aligned)


def resize_saliency(saliency: Tensor, size: tuple[int, int], mode: str = "nearest") -> Tensor:
    """Resize (N, 1, H, W) saliency to a CAM grid: nearest (published, aliases) or area (mean over each cell)."""
    return F.interpolate(saliency.float(), size=size, mode=mode)


def saliency_pooled_logits(score_map: Tensor, saliency: Tensor) -> Tensor:
    """Pool class scores over the salient cells.

    Args:
        score_map: (B, C + 1, h, w).
        saliency: (B, 1, h, w) in [0, 1].

    Returns:
        (B, C) saliency-weighted means; an image without any salient cell gives zeros.
    """
    classes = score_map[:, :-1].float()
    return (classes * saliency).sum(dim=(2, 3)) / saliency.sum(dim=(2, 3)).clamp_min(1.0)
