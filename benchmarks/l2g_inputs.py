"""Made-up inputs of the speed comparison: networks, batches, and folders of real files."""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from configs.deeplab_schema import DeepLabConfig
from deeplab.network import MultiScale, build_deeplab
from models.cam_net import CamNetwork, build_cam_network
from utils.data.classes import IGNORE, label_value, palette

# How many classes an image holds, in turn: means of 1.5 (VOC) and 2.9 (COCO), as in their lists.
CLASSES_PER_IMAGE = {20: (1, 2, 1, 1, 2, 1, 1, 3, 1, 2), 80: (1, 2, 3, 4, 2, 5, 3, 1, 4, 4)}
# A CAM is smooth: noise on this grid resized to the image, with a little on the finer grid of the score map.
COARSE, FINE, FINE_SHARE = (12, 9), (63, 47), 0.1


def make_network(width: float, num_classes: int, device: torch.device, *, seed: int) -> CamNetwork:
    """Return a ResNet-38 CAM network with random weights and BatchNorm statistics that fit them; no dropout."""
    torch.manual_seed(seed)
    network = build_cam_network(
        "resnet38", num_classes, width=width, freeze_bn=True, freeze_stem=True, dropout=False, output_stride=8
    )
    network = network.to(device).eval()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = None  # the mean of what was seen
    with torch.no_grad():
        network.backbone(torch.randn(1, 3, 64, 64, device=device))
    for norm in norms:
        norm.eval()
    return network


def make_deeplab(blocks: list[int], device: torch.device) -> MultiScale:
    """Return the VOC segmentation network (ResNet of `blocks` bottlenecks a stage) with random weights."""
    cfg = DeepLabConfig()
    cfg.model.n_blocks = blocks
    torch.manual_seed(0)
    return build_deeplab(cfg).to(device)


def published_weights(network: CamNetwork) -> dict[str, Tensor]:
    """Return copies of all weights and statistics under the published names, contiguous; what is trained is trained there."""
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    copies = {
        k: v.detach().clone(memory_format=torch.contiguous_format).requires_grad_(v.requires_grad) for k, v in state.items()
    }
    return network.to_published(copies)


def make_batch(batch: int, size: int, crop: int, patches: int, num_classes: int) -> dict[str, Tensor]:
    """Return a training batch on the CPU: images, saliency, boxes (four corners, the rest random) and labels."""
    rng = np.random.default_rng(0)
    span = size - crop
    corners = [(0, 0), (0, span), (span, 0), (span, span)]
    boxes = [[*corners, *rng.integers(0, max(span, 1), (patches - 4, 2)).tolist()] for _ in range(batch)]
    origin = torch.tensor(boxes)
    labels = torch.zeros(batch, num_classes)
    for row, count in zip(labels, CLASSES_PER_IMAGE[num_classes] * batch, strict=False):
        row[rng.permutation(num_classes)[:count].tolist()] = 1
    torch.manual_seed(0)
    images = nn.functional.interpolate(torch.randn(batch, 3, size // 8, size // 8), size=(size, size), mode="bicubic")
    saliency = nn.functional.interpolate(torch.rand(batch, 1, size // 16, size // 16), size=(size, size), mode="bilinear")
    return {"images": images, "saliency": saliency, "boxes": torch.cat([origin, origin + crop], dim=2), "labels": labels}


def make_views(size: tuple[int, int], scales: tuple[float, ...]) -> list[Tensor]:
    """Return one (1, 3, h, w) image per scale for an image of (H, W) pixels."""
    torch.manual_seed(0)
    height, width = size
    image = nn.functional.interpolate(torch.randn(1, 3, height // 8, width // 8), size=size, mode="bicubic")
    sizes = [(round(height * s), round(width * s)) for s in scales]
    return [nn.functional.interpolate(image, size=s, mode="bicubic") for s in sizes]


def write_files(root: Path, images: int, size: tuple[int, int], num_classes: int) -> dict[str, tuple[int, ...]]:
    """Write images, saliency, palette label maps and CAM PNGs in the VOC layout below `root`; returns id -> present classes.

    Args:
        root: gets JPEGImages, Sal, SegmentationClassAug and cams.
        images: how many.
        size: (W, H), pixels.
        num_classes: 20 or 80.
    """
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "Sal", "SegmentationClassAug", "cams"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    counts = CLASSES_PER_IMAGE[num_classes]
    labels = {}
    for index in range(images):
        name = f"image_{index:04d}"
        present = tuple(sorted(int(k) for k in rng.permutation(num_classes)[: counts[index % len(counts)]]))
        cams = [_smooth(rng, size) for _ in present]
        for k, cam in zip(present, cams, strict=True):
            Image.fromarray(cam).save(root / f"cams/{name}_{k}.png")
        pixels = np.stack([_smooth(rng, size) for _ in range(3)], axis=-1)
        Image.fromarray(pixels).save(root / f"JPEGImages/{name}.jpg", quality=90)
        Image.fromarray(_smooth(rng, size)).save(root / f"Sal/{name}.png")
        truth = Image.fromarray(_truth(np.stack(cams), present, _smooth(rng, size)))
        truth.putpalette(palette())
        truth.save(root / f"SegmentationClassAug/{name}.png")
        labels[name] = present
    return labels


def _smooth(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    coarse, fine = (cv2.resize(rng.normal(size=g[::-1]), size, interpolation=cv2.INTER_CUBIC) for g in (COARSE, FINE))
    field = np.asarray(np.maximum(coarse + FINE_SHARE * fine, 0))
    return np.rint(field * (255 / max(field.max(), 1e-8))).astype(np.uint8)


def _truth(cams: NDArray[np.uint8], present: tuple[int, ...], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a label map that agrees with the CAMs in part, with some ignored pixels."""
    values = np.array([label_value(k) for k in present], np.uint8)
    truth = np.where(cams.max(axis=0) // 2 + other // 2 > 64, values[cams.argmax(axis=0)], 0).astype(np.uint8)
    truth[other > 220] = IGNORE
    return truth
