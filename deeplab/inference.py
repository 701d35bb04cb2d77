"""From whole images to logits, probabilities and labels."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.deeplab_schema import DeepLabConfig
from deeplab.network import MultiScale, build_deeplab, scaled
from deeplab.weights import load_checkpoint
from models.layers.lean import INFERENCE_FORMAT
from utils.data.items import Item
from utils.data.loading import whole_images
from utils.runtime.device import autocast_for, compile_in_place, convolving
from utils.runtime.processes import Dist


def load_network(cfg: DeepLabConfig, path: Path, place: Dist) -> MultiScale:
    """Build the configured network with the weights of `path`, in evaluation mode on this process's device."""
    network = build_deeplab(cfg)
    load_checkpoint(network, path)
    network = network.eval().to(place.device).to(memory_format=INFERENCE_FORMAT)
    if cfg.compile:
        compile_in_place(network.base, place.device, sizes_vary=True)
    return network


def infer(cfg: DeepLabConfig, network: MultiScale, items: Sequence[Item], place: Dist) -> Iterator[tuple[Item, Tensor]]:
    """Yield items with logits (classes, h, w) float32 on this device, a stride-8 grid. Raises UserError for a bad image."""
    loader = whole_images(
        items,
        cfg.image,
        batch_size=cfg.solver.batch_size.test,
        workers=cfg.dataloader.num_workers,
        pin_memory=place.device.type == "cuda",
    )
    for batch in loader:
        with convolving(batch.alike, place.device):
            logits = predict(cfg, network, batch.images, place)
        yield from zip(batch.items, logits, strict=True)


def predict(cfg: DeepLabConfig, network: MultiScale, images: Tensor, place: Dist) -> Tensor:
    """Return `image_logits` of (B, 3, H, W) images at the configured precision and views, on this process's device."""
    with torch.inference_mode(), autocast_for(cfg.precision, place.device):
        # Inside: a compiled network has codes of its own for tensors from inside and from outside inference mode.
        images = images.to(place.device, non_blocking=True).contiguous(memory_format=INFERENCE_FORMAT)
        return image_logits(network, images, cfg.test.scales, flip=cfg.test.flip)


def image_logits(network: MultiScale, images: Tensor, scales: Sequence[float], *, flip: bool) -> Tensor:
    """Return (B, classes, h, w) logits, the mean over input scales and mirror images, at the first scale's grid.

    Published testing is one scale (the wrapper adds its own) without mirroring, which is one call of the network.

    Args:
        network: in evaluation mode.
        images: (B, 3, H, W).
        scales: factors of the input.
        flip: also with the mirrored input.
    """
    views = [images if s == 1 else scaled(images, s) for s in scales]
    if flip:
        views = [view for image in views for view in (image, image.flip(3))]
    total: Tensor | None = None
    for index, view in enumerate(views):
        logits: Tensor = network(view)
        if flip and index % 2:
            logits = logits.flip(3)
        if total is None:
            total = logits
        else:
            total = total + F.interpolate(logits, size=total.shape[2:], mode="bilinear", align_corners=False)
    if total is None:
        raise ValueError("no scales")
    return total / len(views) if len(views) > 1 else total
