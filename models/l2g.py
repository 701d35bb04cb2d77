"""L2G: a local network sees crops and learns to classify; a global network learns the attention they find (CVPR 2022).

Both training phases are modules with the same face, `forward(batch) -> StepOutput`, so that one loop trains either.
"""

from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.cam_net import CamNetwork
from models.transfer import (
    BackgroundRow,
    BackgroundTarget,
    align_to_patches,
    background_loss,
    extract_patches,
    normalise_cams,
    resize_saliency,
    saliency_pooled_logits,
    transfer_target,
)


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
        background_target: see `models.transfer.transfer_target`.
        use_saliency: False makes the winner map itself the target.
        background_row: what becomes of the local background channel, which no published loss trains: compete (published),
            drop (left out of the competition), train (it competes and learns the background, see `background_loss`).
        normalise_per_image: see `models.transfer.normalise_cams`.
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
