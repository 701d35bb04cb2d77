"""L2G: a local network sees crops and learns to classify; a global network learns the attention they find (CVPR 2022).

A run may begin with epochs of plain classification (`train.classify_epochs`); both networks then start from that classifier.
Suppression, attention and pasting (`model.suppression`, `model.attention`, `l2g.paste`) are options of the same networks and
samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.fields import COUNT, NOT_NEGATIVE, key
from configs.schema import Config, SampleConfig
from models.cam_net import CamNetwork, cam_network, refuse_masks
from models.layers.transfer import (
    align_to_patches,
    background_loss,
    extract_patches,
    patch_attention,
    resize_saliency,
    saliency_pooled_logits,
    transfer_target,
)
from models.method import Batch, Method, Phase, Picture, StepOutput, classify_first


@dataclass
class L2GSettings(SampleConfig):
    """Section `l2g`: the sample, and the transfer. Defaults are the published VOC values."""

    patches: int = key(6, "local views per image; >= 4 with boxes=corners", within=COUNT)
    saliency: str = key(
        "map", "map: saliency PNGs shape the target; none: the target is the winner map itself", ("map", "none")
    )
    saliency_grid: str = key(
        "nearest", "how saliency reaches the CAM grid: nearest (published) or the mean over each cell", ("nearest", "area")
    )
    kd_weight: float = key(
        10.0, "weight of the transfer loss, mean squared error over all channels (published: 10, COCO 30)", within=NOT_NEGATIVE
    )
    kd_accumulate: str = key(
        "sum",
        "with train.iter_size > 1: sum: a step adds up the transfer losses of its batches, which so weigh iter_size times as "
        "much (published); mean: averages them, as all others",
        ("sum", "mean"),
    )
    bg_threshold: float = key(0.001, "winner score above which a cell takes part in the target", within=NOT_NEGATIVE)
    background_target: str = key(
        "indicator",
        "indicator: 1[T>thr](1-s), VOC; value: T(1-s), COCO; complement: 1-s everywhere",
        ("indicator", "value", "complement"),
    )
    background_row: str = key(
        "compete",
        "compete: the untrained local background row competes (published); drop: left out; train: learns 1-s and competes",
        ("compete", "drop", "train"),
    )
    cam_norm: str = key(
        "patch",
        "local CAMs are divided by their maximum over one patch (published) or all patches of the image",
        ("patch", "image"),
    )
    roi_aligned: bool = key(False, "half-pixel correction of RoIAlign (published: none)")
    target_dropout: bool = key(
        True, "dropout stays on while the local network makes targets (published); false costs a second local forward"
    )
    global_cls_weight: float = key(
        0.0, "weight of the global network's classification loss (published: 0, only logged)", within=NOT_NEGATIVE
    )
    global_cls_pool: str = key(
        "mean", "pooling of that loss: mean over all cells, or saliency-weighted mean", ("mean", "saliency")
    )


CLASSIFICATION, TRANSFER = "classification", "local-to-global transfer"


class L2G(Method):
    """The local and the global network; CAMs are the global one's score maps."""

    name = "l2g"
    Settings = L2GSettings

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        if cfg.train.classify_epochs > cfg.train.epochs:
            found, most = cfg.train.classify_epochs, cfg.train.epochs
            raise ValueError(f"train.classify_epochs is {found}, expected between 0 and train.epochs ({most})")
        self.global_net, self.local_net = (cam_network(cfg.model, cfg.data.num_classes) for _ in range(2))
        self.transfer = Transfer(self.global_net, self.local_net, cast(L2GSettings, cfg.settings))

    def networks(self) -> dict[str, nn.Module]:
        """Return both under the published checkpoint keys."""
        return {"state_dict": self.global_net, "local_dict": self.local_net}

    @classmethod
    def inference_network(cls, cfg: Config, network: str = "global") -> CamNetwork:
        """Build the CAM network; both are alike.

        Raises:
            ValueError: for `cam.activation=softmax` where the background channel is as it was drawn, and `cam.merge=mean`.
        """
        refuse_masks(cfg)
        untrained = ""
        if cfg.train.classify_epochs >= cfg.train.epochs:
            untrained = "with train.classify_epochs >= train.epochs the network"
        elif network == "local" and (row := getattr(cfg.settings, "background_row", "")) != "train":
            untrained = f"the local network (l2g.background_row={row})"
        if cfg.cam.activation == "softmax" and untrained:
            raise ValueError(
                f"cam.activation=softmax, but {untrained} has never learned its background channel; set cam.activation=relu"
            )
        return cam_network(cfg.model, cfg.data.num_classes)

    def phases(self) -> list[Phase]:
        """Return plain classification for `train.classify_epochs`, if any, then the transfer, whose optimiser begins anew."""
        return classify_first(self.cfg.train, CLASSIFICATION, TRANSFER, fresh_optimizer=True)

    def begin(self, phase: Phase) -> None:
        """Let the local network continue from the trained global one."""
        self.local_net.load_state_dict(self.global_net.state_dict())

    def step_module(self, phase: Phase) -> nn.Module:
        """Return the classifier of the first phase, or the transfer."""
        return Classification(self.global_net) if phase.name == CLASSIFICATION else self.transfer

    def pictures(self, batch: Batch, views: Mapping[str, Tensor]) -> dict[str, Picture]:
        """Return the view, the global network's attention and, while transferring, what the first image's patches led to."""
        pictures = {**super().pictures(batch, views), "global_cam": Picture("scores", views["global_map"])}
        if "target" in views:
            crops = [batch["images"][:1, :, y1:y2, x1:x2] for x1, y1, x2, y2 in batch["boxes"][0].tolist()]
            pictures |= {
                "patch_input": Picture("image", torch.cat(crops)),
                "local_cam": Picture("scores", views["local_map"]),
                "target": Picture("heat", views["target"][:, :-1].amax(dim=1, keepdim=True)),
                "global_softmax": Picture("heat", views["softmax"][:, :-1].amax(dim=1, keepdim=True)),
                "winner": Picture("classes", views["target"]),
            }
        return pictures


class Classification(nn.Module):
    """Multi-label classification of whole images: the first phase, and all of the plain baseline (`models/cam.py`)."""

    def __init__(self, network: CamNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> StepOutput:
        """Return the multi-label soft-margin loss (mean over classes and images) of the view."""
        score_map, logits = self.network(batch["images"])
        loss = F.multilabel_soft_margin_loss(logits.float(), batch["labels"])
        return {"loss": loss, "losses": {"cls_global": loss.detach()}, "views": {"global_map": score_map[:1].detach()}}


class Transfer(nn.Module):
    """One step of the transfer.

    Gradients: the classification loss (and `background_loss` where the background row is trained) trains the local network
    only, the transfer loss the global one only (plus its own classification loss where `global_cls_weight` > 0).
    """

    def __init__(self, global_net: CamNetwork, local_net: CamNetwork, settings: L2GSettings) -> None:
        super().__init__()
        self.global_net, self.local_net, self.settings = global_net, local_net, settings

    def forward(self, batch: Batch) -> StepOutput:
        """Crop, classify the crops, turn their attention into the target, and regress the aligned global map to it."""
        settings, patches = self.settings, batch["boxes"].shape[1]
        crops = extract_patches(batch["images"], batch["boxes"], settings.crop_size)
        global_map, global_logits = self.global_net(batch["images"])
        local_map, local_logits = self.local_net(crops)
        target = self._target(crops, local_map, batch)
        size = (local_map.shape[2], local_map.shape[3])
        aligned = align_to_patches(
            global_map, batch["boxes"], size, stride=self.global_net.stride, aligned=settings.roi_aligned
        ).softmax(dim=1)
        kd = settings.kd_weight * F.mse_loss(aligned, target)
        labels = batch.get("local_labels", batch["labels"])
        cls_local = F.multilabel_soft_margin_loss(local_logits.float(), labels.repeat_interleave(patches, dim=0))
        cls_global = self._global_classification(global_map, global_logits, batch)
        times = batch.get("window", 1) if settings.kd_accumulate == "sum" else 1  # the trainer takes the mean
        loss, losses = times * kd + cls_local, {"kd": kd, "cls_local": cls_local, "cls_global": cls_global}
        if settings.global_cls_weight:
            loss = loss + settings.global_cls_weight * cls_global
        if settings.background_row == "train":
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
        settings = self.settings
        if not settings.target_dropout and self._active_dropouts():
            local_map = self._without_dropout(crops)
        attention = patch_attention(
            local_map.detach(),
            batch["labels"],
            per_image=settings.cam_norm == "image",
            drop_background=settings.background_row == "drop",
        )
        saliency = self._local_saliency(batch, (attention.shape[2], attention.shape[3]))
        return transfer_target(
            attention, saliency, threshold=settings.bg_threshold, background_target=settings.background_target
        )

    def _local_saliency(self, batch: Batch, size: tuple[int, int]) -> Tensor | None:
        """Return the patches' saliency on the CAM grid, (B K, 1, h, w); None where saliency is not used."""
        if self.settings.saliency == "none":
            return None
        views = extract_patches(batch["saliency"], batch["boxes"], self.settings.crop_size)
        return resize_saliency(views, size, self.settings.saliency_grid)

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
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.settings.global_cls_weight > 0):
            if self.settings.global_cls_pool == "saliency":
                size = (score_map.shape[2], score_map.shape[3])
                logits = saliency_pooled_logits(score_map, resize_saliency(batch["saliency"], size, "area"))
            return F.multilabel_soft_margin_loss(logits.float(), batch["labels"])
