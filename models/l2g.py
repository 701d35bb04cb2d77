"""L2G: a local network sees crops and learns to classify; a global network learns the attention they find (CVPR 2022).

Both training phases are modules with the same face, `forward(batch) -> StepOutput`, so that one loop trains either.
"""

from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.cam_net import CamNetwork

BackgroundTarget = Literal["indicator", "value", "complement"]
BackgroundRow = Literal["compete", "drop", "train"]

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


def normalise_cams(score_map: Tensor, labels: Tensor, *, per_image: bool = False, drop_background: bool = False) -> Tensor:
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
    background_target: BackgroundTarget = "indicator",
) -> Tensor:
    """Build what the global network learns: the winning channel of each cell, its height set by saliency.

    At a cell won by class k with a value above `threshold` the target is s at k and 0 elsewhere; so the published target is
    no distribution. The background channel is, by `background_target`:

    - indicator (published, VOC): 1[T > threshold] (1 - s) where background wins;
    - value (published, COCO): T (1 - s) where background wins;
    - complement: 1 - s everywhere, so that the target sums to one wherever a class wins.

    Args:
        attention: (N, C + 1, h, w) from `normalise_cams`.
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
    flat = boxes.reshape(-1, 4).to(score_map.device, torch.float32)
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


class Views(TypedDict):
    """images (B, 3, S, S) normalised RGB; saliency (B, 1, S, S) in [0, 1]; boxes (B, K, 4) on the CPU; labels (B, C)."""

    images: Tensor
    saliency: Tensor
    boxes: Tensor
    labels: Tensor


class Batch(Views, total=False):
    """What a step sees; `local_labels` (B, C) where the crops are classified as something else (l2g.paste.leak_labels)."""

    local_labels: Tensor


class StepOutput(TypedDict):
    """`loss`: what to minimise; `losses`: scalars to log, detached; `views`: maps of the first image's patches to show."""

    loss: Tensor
    losses: dict[str, Tensor]
    views: dict[str, Tensor]


@dataclass(frozen=True)
class L2GOptions:
    """What can differ from the published system; the defaults are its VOC values.

    Attributes:
        crop_size: side of a local view in pixels.
        kd_weight: weight of the transfer loss (mean squared error over all channels; 10 VOC, 30 COCO).
        bg_threshold: winner score above which a cell takes part in the target.
        background_target: see `models.l2g.transfer_target`.
        use_saliency: False makes the winner map itself the target.
        background_row: what becomes of the local background channel, which no published loss trains: compete (published),
            drop (left out of the competition), train (it competes and learns the background, see `background_loss`).
        normalise_per_image: see `models.l2g.normalise_cams`.
        roi_aligned: half-pixel correction of RoIAlign.
        saliency_grid: nearest or area, how saliency reaches the CAM grid.
        target_dropout: keep dropout on in the pass that makes targets; False costs a second local forward.
        global_cls_weight: weight of the global classification loss, which the published program only logs.
        pool_by_saliency: pool that loss over salient cells instead of all.
    """

    crop_size: int = 320
    kd_weight: float = 10.0
    bg_threshold: float = 0.001
    background_target: BackgroundTarget = "indicator"
    use_saliency: bool = True
    background_row: BackgroundRow = "compete"
    normalise_per_image: bool = False
    roi_aligned: bool = False
    saliency_grid: str = "nearest"
    target_dropout: bool = True
    global_cls_weight: float = 0.0
    pool_by_saliency: bool = False


class Classification(nn.Module):
    """Plain multi-label classification of whole images: the CAM baseline and the warm start of L2G."""

    def __init__(self, network: CamNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> StepOutput:
        """Return the multi-label soft-margin loss (mean over classes and images) of the global view."""
        score_map, logits = self.network(batch["images"])
        loss = F.multilabel_soft_margin_loss(logits.float(), batch["labels"])
        return {"loss": loss, "losses": {"cls_global": loss.detach()}, "views": {"global_map": score_map[:1].detach()}}


class L2G(nn.Module):
    """The local and the global network and everything between them.

    Gradients: the classification loss (and `background_loss` where the background row is trained) trains the local network
    only, the transfer loss the global one only (plus its own classification loss where `global_cls_weight` > 0).
    """

    def __init__(self, global_net: CamNetwork, local_net: CamNetwork, options: L2GOptions) -> None:
        super().__init__()
        self.global_net = global_net
        self.local_net = local_net
        self.options = options

    def forward(self, batch: Batch) -> StepOutput:
        """Crop, classify the crops, turn their attention into the target, and regress the aligned global map to it."""
        options, patches = self.options, batch["boxes"].shape[1]
        crops = extract_patches(batch["images"], batch["boxes"], options.crop_size)
        global_map, global_logits = self.global_net(batch["images"])
        local_map, local_logits = self.local_net(crops)
        target = self._target(crops, local_map, batch)
        size = (local_map.shape[2], local_map.shape[3])
        aligned = align_to_patches(
            global_map, batch["boxes"], size, stride=self.global_net.stride, aligned=options.roi_aligned
        ).softmax(dim=1)
        kd = options.kd_weight * F.mse_loss(aligned, target)
        labels = batch.get("local_labels", batch["labels"])
        cls_local = F.multilabel_soft_margin_loss(local_logits.float(), labels.repeat_interleave(patches, dim=0))
        cls_global = self._global_classification(global_map, global_logits, batch)
        loss, losses = kd + cls_local, {"kd": kd, "cls_local": cls_local, "cls_global": cls_global}
        if options.global_cls_weight:
            loss = loss + options.global_cls_weight * cls_global
        if options.background_row == "train":
            losses["background"] = background_loss(local_map, self._local_saliency(batch, size))
            loss = loss + losses["background"]
        return {
            "loss": loss,
            "losses": {name: value.detach() for name, value in losses.items()},
            "views": {
                "global_map": global_map[:1].detach(),
                "local_map": local_map[:patches].detach(),
                "target": target[:patches],
                "softmax": aligned[:patches].detach(),
            },
        }

    @torch.no_grad()
    def _target(self, crops: Tensor, local_map: Tensor, batch: Batch) -> Tensor:
        options = self.options
        if not options.target_dropout and self._active_dropouts():
            local_map = self._without_dropout(crops)
        attention = normalise_cams(
            local_map.detach(),
            batch["labels"],
            per_image=options.normalise_per_image,
            drop_background=options.background_row == "drop",
        )
        saliency = self._local_saliency(batch, (attention.shape[2], attention.shape[3]))
        return transfer_target(attention, saliency, threshold=options.bg_threshold, background_target=options.background_target)

    def _local_saliency(self, batch: Batch, size: tuple[int, int]) -> Tensor | None:
        """Return the patches' saliency on the CAM grid, (B K, 1, h, w); None where saliency is not used."""
        if not self.options.use_saliency:
            return None
        views = extract_patches(batch["saliency"], batch["boxes"], self.options.crop_size)
        return resize_saliency(views, size, self.options.saliency_grid)

    def _active_dropouts(self) -> list[nn.Module]:
        kinds = (nn.Dropout, nn.Dropout2d)
        return [m for m in self.local_net.modules() if isinstance(m, kinds) and m.training and m.p > 0]

    def _without_dropout(self, crops: Tensor) -> Tensor:
        """Run the local network once more with dropout off; BatchNorm keeps its mode."""
        dropouts = self._active_dropouts()
        for module in dropouts:
            module.eval()
        score_map: Tensor = self.local_net(crops)[0]
        for module in dropouts:
            module.train()
        return score_map

    def _global_classification(self, score_map: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        """Return the global classification loss; without weight it is only logged and costs no gradient."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.options.global_cls_weight > 0):
            if self.options.pool_by_saliency:
                size = (score_map.shape[2], score_map.shape[3])
                logits = saliency_pooled_logits(score_map, resize_saliency(batch["saliency"], size, "area"))
            return F.multilabel_soft_margin_loss(logits.float(), batch["labels"])
