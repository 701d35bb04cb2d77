"""What TensorBoard shows of a training step: one strip per kind of map, the views of the batch's first image side by side."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.classes import BACKGROUND, label_value, palette
from utils.visualize import heat_map

GRID_SIDE = 160


def training_pictures(
    batch: Mapping[str, Any], views: Mapping[str, Tensor], mean: list[float], std: list[float]
) -> dict[str, Tensor]:
    """Draw the first image of a batch and the maps its patches led to.

    Args:
        batch: images (B, 3, S, S), saliency (B, 1, S, S), boxes (B, K, 4), labels (B, C).
        views: of the first image: `global_map` (1, C + 1, h, w) and, from L2G, `local_map`, `target`, `softmax`
            (K, C + 1, h, w).
        mean: channel means the images were normalised with.
        std: channel deviations.

    Returns:
        name -> (3, height, width) float in [0, 1]: input, saliency, global_cam and, from L2G, patch_input, local_cam,
        target, global_softmax and winner (class colours of the target's winning channel).
    """
    present = batch["labels"][0].bool().cpu()
    image, saliency = batch["images"][:1].float().cpu(), batch["saliency"][:1].float().cpu()
    image = (image * torch.tensor(std).view(1, 3, 1, 1) + torch.tensor(mean).view(1, 3, 1, 1)).clamp(0, 1)
    pictures = {
        "input": _strip(image),
        "saliency": _strip(saliency.expand(-1, 3, -1, -1)),
        "global_cam": _strip(_heat(_attention(views["global_map"].float().cpu(), present))),
    }
    if "target" not in views:
        return pictures
    local, target, softmax = (views[name].float().cpu() for name in ("local_map", "target", "softmax"))
    crops = [image[:, :, y1:y2, x1:x2] for x1, y1, x2, y2 in batch["boxes"][0].tolist()]
    pictures["patch_input"] = _strip(torch.cat(crops))
    pictures["local_cam"] = _strip(_heat(_attention(local, present)))
    pictures["target"] = _strip(_heat(target[:, :-1].amax(dim=1, keepdim=True)))
    pictures["global_softmax"] = _strip(_heat(softmax[:, :-1].amax(dim=1, keepdim=True)))
    pictures["winner"] = _strip(_colours(target))
    return pictures


def _attention(score_map: Tensor, present: Tensor) -> Tensor:
    """Return (N, 1, h, w): the present classes' scores, ReLU, each divided by its maximum, the largest of them."""
    scores = score_map[:, :-1][:, present].clamp_min(0)
    scores = scores / (scores.amax(dim=(2, 3), keepdim=True) + torch.finfo(torch.float32).eps)
    return scores.amax(dim=1, keepdim=True)


def _heat(maps: Tensor) -> Tensor:
    """Return (N, 3, h, w) colours of (N, 1, h, w) maps in [0, 1]."""
    return torch.stack([torch.from_numpy(heat_map(m[0].numpy())).permute(2, 0, 1) / 255 for m in maps])


def _colours(target: Tensor) -> Tensor:
    """Return (N, 3, h, w) class colours of the winning channel; the last channel is background."""
    colours = torch.tensor(list(palette())).view(-1, 3).float() / 255
    background = target.shape[1] - 1
    value, channel = target.max(dim=1)
    label_of_channel = torch.tensor([label_value(k) for k in range(background)] + [BACKGROUND])
    labels = torch.where(value == 0, BACKGROUND, label_of_channel[channel])
    return colours[labels].permute(0, 3, 1, 2)


def _strip(pictures: Tensor) -> Tensor:
    """Lay (N, 3, h, w) pictures side by side at a common size."""
    side = max(GRID_SIDE, pictures.shape[-1]) if pictures.shape[0] == 1 else GRID_SIDE
    from torchvision.utils import make_grid  # here: torchvision takes as long to load as torch itself

    return make_grid(F.interpolate(pictures, size=(side, side), mode="nearest"), nrow=pictures.shape[0], padding=2)
