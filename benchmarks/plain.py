"""The published L2G networks and training step, written straight from their description: the slow side of the comparison.

Nothing here is used by the project, and nothing of the project is used here. Everything is float32; the refinement works on
all 4096 features through the N x N affinity matrix; the winner map is an argsort and a row of an identity matrix; inference
is one forward per view and resizes every channel. Weights are dictionaries under the published key names.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

Weights = Mapping[str, Tensor]
HEAD = ("fc8.weight", "f8_3.weight", "f8_4.weight", "f9.weight")
HEAD_RATE, MOMENTUM, WEIGHT_DECAY = 10, 0.9, 5e-4
STRIDE = 8
BN_EPSILON, AFFINITY_EPSILON, PEAK_EPSILON = 1e-5, 1e-5, 1e-8


def _norm_relu(w: Weights, name: str, x: Tensor) -> Tensor:
    mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    return F.relu(F.batch_norm(x, mean, variance, w[f"{name}.weight"], w[f"{name}.bias"], False, 0.0, BN_EPSILON))


def _block_r(w: Weights, name: str, x: Tensor, stride: int = 1, dilations: tuple[int, int] = (1, 1)) -> tuple[Tensor, Tensor]:
    first, second = dilations
    u = _norm_relu(w, f"{name}.bn_branch2a", x)
    shortcut = x
    if f"{name}.conv_branch1.weight" in w:
        shortcut = F.conv2d(u, w[f"{name}.conv_branch1.weight"], stride=stride)
    main = F.conv2d(u, w[f"{name}.conv_branch2a.weight"], stride=stride, padding=first, dilation=first)
    main = _norm_relu(w, f"{name}.bn_branch2b1", main)
    return shortcut + F.conv2d(main, w[f"{name}.conv_branch2b1.weight"], padding=second, dilation=second), u


def _block_b(w: Weights, name: str, x: Tensor, dilation: int = 4) -> tuple[Tensor, Tensor]:
    u = _norm_relu(w, f"{name}.bn_branch2a", x)
    main = _norm_relu(w, f"{name}.bn_branch2b1", F.conv2d(u, w[f"{name}.conv_branch2a.weight"]))
    main = F.conv2d(main, w[f"{name}.conv_branch2b1.weight"], padding=dilation, dilation=dilation)
    main = F.conv2d(_norm_relu(w, f"{name}.bn_branch2b2", main), w[f"{name}.conv_branch2b2.weight"])
    return F.conv2d(u, w[f"{name}.conv_branch1.weight"]) + main, u


def features(w: Weights, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ResNet-38: images (B, 3, H, W) to conv4 (B, 512, h, w), conv5 (1024) and conv6 (4096), without dropout."""
    x = F.conv2d(images, w["conv1a.weight"], padding=1)
    for name in ("b2", "b2_1", "b2_2", "b3", "b3_1", "b3_2", "b4", "b4_1", "b4_2", "b4_3", "b4_4", "b4_5"):
        x, _ = _block_r(w, name, x, stride=1 if "_" in name else 2)
    x, conv4 = _block_r(w, "b5", x, dilations=(1, 2))
    for name in ("b5_1", "b5_2"):
        x, _ = _block_r(w, name, x, dilations=(2, 2))
    x, conv5 = _block_b(w, "b6", x)
    x, _ = _block_b(w, "b7", x)
    return conv4, conv5, _norm_relu(w, "bn7", x)


def score_map(w: Weights, images: Tensor) -> tuple[Tensor, Tensor]:
    """Score maps (B, C + 1, h, w), background last, and logits (B, C): all features refined, then classified."""
    conv4, conv5, conv6 = features(w, images)
    cam = F.conv2d(conv6, w["fc8.weight"])
    size = cam.shape[2:]
    small = F.interpolate(images, size, mode="bilinear", align_corners=True)
    sides = [F.conv2d(conv4.detach(), w["f8_3.weight"]), F.conv2d(conv5.detach(), w["f8_4.weight"])]
    f = F.conv2d(torch.cat([small, *sides], dim=1), w["f9.weight"]).flatten(2)
    f = f / (f.norm(dim=1, keepdim=True) + AFFINITY_EPSILON)
    affinity = F.relu(f.transpose(1, 2) @ f)
    affinity = affinity / (affinity.sum(dim=1, keepdim=True) + AFFINITY_EPSILON)
    source = F.interpolate(conv6, size, mode="bilinear", align_corners=True).flatten(2)
    refined = (source @ affinity).unflatten(2, size)
    maps = cam + F.conv2d(refined, w["fc8.weight"])
    return maps, maps[:, :-1].mean(dim=(2, 3))


def cams(w: Weights, views: Sequence[Tensor], size: tuple[int, int], classes: Sequence[int]) -> Tensor:
    """CAMs (K, H, W) uint8 of one image from its views (1, 3, h_s, w_s): each scale followed by its mirror image."""
    maps = []
    for index, view in enumerate(views):
        resized = F.interpolate(score_map(w, view)[0], size, mode="bicubic", align_corners=False)
        maps.append(resized.flip(3) if index % 2 else resized)
    mean = torch.stack(maps).mean(dim=0)[0].clamp(min=0)
    mean = mean / (mean.amax(dim=(1, 2), keepdim=True) + PEAK_EPSILON)
    return (mean[list(classes)] * 255).round().clamp(0, 255).to(torch.uint8)


def winner_map(attention: Tensor) -> Tensor:
    """Keep the largest channel of each cell of (N, C + 1, h, w), zero the others."""
    first = attention.argsort(dim=1, descending=True)[:, 0]
    one_hot = torch.eye(attention.shape[1], device=attention.device)[first]
    return attention * one_hot.permute(0, 3, 1, 2)


def transfer_target(local_map: Tensor, saliency: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """The transfer target of the VOC script.

    Args:
        local_map: (B * K, C + 1, h, w).
        saliency: (B * K, 1, c, c) crops in [0, 1].
        labels: (B, C).
        threshold: winner score above which a cell takes part.
    """
    t = local_map.detach().clamp(min=0)
    t = t / (t.amax(dim=(2, 3), keepdim=True) + PEAK_EPSILON)
    patches = len(t) // len(labels)
    for image, row in enumerate(labels):
        t[image * patches : (image + 1) * patches, :-1][:, row == 0] = 0
    on = (winner_map(t) > threshold).float()
    s = F.interpolate(saliency, t.shape[2:], mode="nearest").repeat(1, labels.shape[1], 1, 1)
    return torch.cat([on[:, :-1] * s, on[:, -1:] * (1 - s[:, :1])], dim=1)


class Trainer:
    """Both networks and their optimiser; `step` is one iteration of the published loop.

    Args:
        global_weights: published key names; tensors that require a gradient are trained.
        local_weights: likewise.
        crop_size: side of a local view, pixels.
        kd_weight: weight of the transfer loss.
        threshold: see `transfer_target`.
        rate: learning rate of the pretrained layers; the four head layers have ten times that.
    """

    def __init__(
        self,
        global_weights: Weights,
        local_weights: Weights,
        *,
        crop_size: int,
        kd_weight: float,
        threshold: float,
        rate: float,
    ) -> None:
        self.global_weights, self.local_weights = global_weights, local_weights
        self.crop_size, self.kd_weight, self.threshold = crop_size, kd_weight, threshold
        nets = (global_weights, local_weights)
        trunk = [p for net in nets for key, p in net.items() if p.requires_grad and key not in HEAD]
        groups = [{"params": trunk, "lr": rate}, {"params": [n[k] for n in nets for k in HEAD], "lr": HEAD_RATE * rate}]
        self.optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)

    def step(self, images: Tensor, saliency: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Take one step.

        Args:
            images: (B, 3, S, S).
            saliency: (B, 1, S, S).
            boxes: (B, K, 4) integers on the CPU, [x1, y1, x2, y2].
            labels: (B, C).

        Returns:
            the losses kd, cls_local and cls_global.
        """
        side, patches = self.crop_size, boxes.shape[1]
        rows = [(i, x, y) for i, image_boxes in enumerate(boxes.tolist()) for x, y, _, _ in image_boxes]
        crops = torch.stack([images[i, :, y : y + side, x : x + side] for i, x, y in rows])
        crop_saliency = torch.stack([saliency[i, :, y : y + side, x : x + side] for i, x, y in rows])
        global_map, global_logits = score_map(self.global_weights, images)
        local_map, local_logits = score_map(self.local_weights, crops)
        target = transfer_target(local_map, crop_saliency, labels, self.threshold)
        index = torch.arange(len(images)).repeat_interleave(patches)[:, None]
        rois = torch.cat([index, boxes.reshape(-1, 4)], dim=1).float().to(images.device)
        size = (local_map.shape[2], local_map.shape[3])
        aligned = roi_align(global_map, rois, size, spatial_scale=1 / STRIDE).softmax(dim=1)
        kd = self.kd_weight * ((aligned - target) ** 2).mean()
        cls_local = F.multilabel_soft_margin_loss(local_logits, labels.repeat_interleave(patches, dim=0))
        cls_global = F.multilabel_soft_margin_loss(global_logits, labels)
        self.optimizer.zero_grad()
        (kd + cls_local).backward()
        self.optimizer.step()
        return {"kd": kd.detach(), "cls_local": cls_local.detach(), "cls_global": cls_global.detach()}
