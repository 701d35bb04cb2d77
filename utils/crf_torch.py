"""The dense CRF in PyTorch alone (CPU and CUDA): mean-field inference of Kraehenbuehl & Koltun (2011)."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from utils.crf_inputs import LOWEST_PROBABILITY, CrfParameters
from utils.permutohedral import Lattice, build_lattice

# The published filter works on four points at once and fills the last four with zero features, whose vertices then exist.
_POINTS_AT_ONCE = 4
# Keeps the normalisation finite where nothing arrives, as published.
_TINY = 1e-20
# Position lattices kept: data sets hold few sizes of pictures.
_KEPT = 4

Sizes = tuple[tuple[int, int], ...]


def refine(probabilities: Sequence[Tensor], images: Sequence[Tensor], p: CrfParameters) -> list[Tensor]:
    """Return refined probabilities (C, H, W) float32 of each image.

    Args:
        probabilities: (C, H, W) float32 in [0, 1] each; sizes and C may differ. All on one device.
        images: (H, W, 3) uint8 each.
        p: constants.
    """
    # On a CPU, several images at once only fill the caches.
    at_once = len(images) if probabilities[0].is_cuda else 1
    portions = range(0, len(images), at_once)
    return [q for i in portions for q in _refine_together(probabilities[i : i + at_once], images[i : i + at_once], p)]


@torch.no_grad()
def _refine_together(probabilities: Sequence[Tensor], images: Sequence[Tensor], p: CrfParameters) -> list[Tensor]:
    sizes: Sizes = tuple((image.shape[0], image.shape[1]) for image in images)
    kernels = _kernels(images, sizes, p)
    priors = _to_rows(probabilities)
    q = _mean_field(priors, kernels, p.iterations)
    shapes = [one.shape for one in probabilities]
    rows = q.split([_padded(h * w) for _, h, w in shapes])
    return [row[: h * w, :c].t().reshape(c, h, w) for row, (c, h, w) in zip(rows, shapes, strict=True)]


def _mean_field(priors: Tensor, kernels: list[Lattice], iterations: int) -> Tensor:
    q = priors / priors.sum(1, keepdim=True)
    for _ in range(iterations):
        message = kernels[0].filter(q)
        for kernel in kernels[1:]:
            message += kernel.filter(q)
        q = message.exp_().mul_(priors)
        q /= q.sum(1, keepdim=True)
    return q


def _to_rows(probabilities: Sequence[Tensor]) -> Tensor:
    """Return (P, C)."""
    classes = max(one.shape[0] for one in probabilities)
    rows = []
    for one in probabilities:
        flat = one.flatten(1).clamp(LOWEST_PROBABILITY, 1.0)
        flat = pad(flat, (0, _padded(flat.shape[1]) - flat.shape[1]), value=1.0)
        rows.append(pad(flat, (0, 0, 0, classes - flat.shape[0])).t())
    return torch.cat(rows).contiguous()


def _padded(points: int) -> int:
    return points + -points % _POINTS_AT_ONCE


def _kernels(images: Sequence[Tensor], sizes: Sizes, p: CrfParameters) -> list[Lattice]:
    kernels = []
    if p.pos_w > 0:
        kernels.append(_position_kernel(sizes, p.pos_xy_std, p.pos_w, images[0].device))
    if p.bi_w > 0:
        features = [
            torch.cat([_positions(i.shape[:2], i.device) / p.bi_xy_std, i.flatten(0, 1) / p.bi_rgb_std], 1) for i in images
        ]
        kernels.append(_normalised(features, p.bi_w))
    return kernels


@lru_cache(maxsize=_KEPT)
def _position_kernel(sizes: Sizes, deviation: float, weight: float, device: torch.device) -> Lattice:
    return _normalised([_positions(size, device) / deviation for size in sizes], weight)


def _positions(size: Sequence[int], device: torch.device) -> Tensor:
    """Return (H * W, 2) float32 x, y."""
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float32, device=device) for side in size), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def _normalised(features: list[Tensor], weight: float) -> Lattice:
    counts = [len(one) for one in features]
    everything = torch.cat([pad(one, (0, 0, 0, _padded(len(one)) - len(one))) for one in features])
    valid = torch.cat([pad(torch.ones(n, device=everything.device), (0, _padded(n) - n)) for n in counts])
    image = None
    if len(features) > 1:
        image = torch.cat([torch.full((_padded(n),), i, device=everything.device) for i, n in enumerate(counts)])
    lattice = build_lattice(everything, image)
    norm = (lattice.filter(valid[:, None])[:, 0] + _TINY).rsqrt()
    return lattice.scaled(norm * valid, norm * weight)
