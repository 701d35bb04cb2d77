"""Losses over the multi-scale outputs, in a form that sums exactly over processes."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.deeplab_schema import IGNORE_LABEL
from deeplab.network import MultiScale
from models.layers.precision import in_float32
from utils.data.classes import BACKGROUND
from utils.runtime.processes import Dist, sum_over_ranks

DICE_EPSILON = 1e-7


def multi_scale_loss(
    outputs: Sequence[Tensor],
    labels: Tensor,
    *,
    balanced: bool = False,
    over_all: bool = False,
    reduce_counts: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> Tensor:
    """Return the cross-entropy of each output map, (M,); their sum is the published loss of a mini-batch.

    Each map is compared with labels resized to it by nearest neighbour. Plain: mean over labelled pixels (published).
    Balanced (CLIMS, RIB): half the mean over background and half the mean over foreground pixels. A map without any pixel
    of a kind contributes 0 for it, where the published code gave NaN.

    Args:
        outputs: (B, classes, h, w) logits of several sizes.
        labels: (B, H, W) int64, 255 ignored.
        balanced: which of the two.
        over_all: plain, but the sum over labelled pixels is divided by the number of all (L2G with pasting, published).
        reduce_counts: sums pixel counts over processes; then each process returns its part of the global loss.
    """
    targets = [resize_labels(labels, (logits.shape[2], logits.shape[3])) for logits in outputs]
    return cross_entropies(outputs, targets, balanced=balanced, over_all=over_all, reduce_counts=reduce_counts)


def cross_entropies(
    outputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    balanced: bool,
    over_all: bool = False,
    reduce_counts: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> Tensor:
    """Return `multi_scale_loss` of maps with labels (B, h, w) of their own."""
    groups = 2 if balanced else 1
    sums, counts = [], []
    for logits, target in zip(outputs, targets, strict=True):
        pixels = F.cross_entropy(logits, target, ignore_index=IGNORE_LABEL, reduction="none")
        for mask in _groups(target, balanced):
            sums.append((pixels * mask).sum())
            counts.append(torch.ones_like(mask).sum() if over_all else mask.sum())
    total = reduce_counts(torch.stack(counts).to(pixels.dtype)).clamp_min(1)
    return (torch.stack(sums) / total).view(len(outputs), groups).mean(dim=1)


def dice_losses(
    outputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    counts_ignored: bool,
    share: float,
    place: Dist,
) -> Tensor:
    """Return for each map 1 - the mean over all classes of 2 sum(p g) / (sum(p) + sum(g) + 1e-7), (M,), over the mini-batch.

    A class that is not there and not predicted has Dice 0, so with k classes there it is at least 1 - k / classes (published).

    Args:
        outputs: (B, classes, h, w) logits of several sizes.
        targets: (B, h, w) int64, 255 ignored.
        counts_ignored: what is said at ignored pixels counts in the denominator (published).
        share: 0: a borrowed batch, which counts nothing.
        place: this process; each returns its part of the global loss, which has the global loss's gradient.
    """
    rows = []
    for logits, target in zip(outputs, targets, strict=True):
        said = logits.softmax(dim=1)
        labelled = target != IGNORE_LABEL
        counted = torch.ones_like(labelled) if counts_ignored and share else labelled
        truth = F.one_hot(target.where(labelled, 0), said.shape[1]).movedim(3, 1) * labelled[:, None]
        both, sizes = (said * truth).sum(dim=(0, 2, 3)), (said * counted[:, None]).sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
        rows.append(torch.stack([both, sizes]))
    sums = torch.stack(rows)
    if place.world > 1:  # the value is that of all processes, the gradient this one's
        sums = sum_over_ranks(sums.detach().clone(), place.world) + sums - sums.detach()
    losses = 1 - (2 * sums[:, 0] / (sums[:, 1] + DICE_EPSILON)).mean(dim=1)
    return losses + losses.detach() * (1 / place.world - 1)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, H, W) label maps to (B, *size) by PIL's nearest rule: source index floor((i + 0.5) * n_src / n_dst)
    in its rounding.

    (The published helper swapped height and width; on its square crops that made no difference.)
    """
    rows, columns = (_nearest(labels.shape[1 + axis], size[axis], labels.device) for axis in (0, 1))
    return labels[:, rows[:, None], columns]


@functools.lru_cache
def _nearest(source: int, target: int, device: torch.device) -> Tensor:
    # PIL adds up steps in double precision; where a position falls on a pixel border, its rounding errors decide.
    steps = np.full(target, source / target)
    steps[0] /= 2
    positions = np.cumsum(steps).astype(np.int64)
    return torch.from_numpy(positions.clip(max=source - 1)).to(device, non_blocking=True)


def _groups(target: Tensor, balanced: bool) -> list[Tensor]:
    labelled = target != IGNORE_LABEL
    if not balanced:
        return [labelled]
    return [target == BACKGROUND, labelled & (target != BACKGROUND)]


class LossModule(nn.Module):
    """The segmentation network with its losses: what the training loop trains.

    Args:
        network: in training mode it returns a list of logits.
        balanced: kind of cross-entropy, see `multi_scale_loss`.
        over_all: what it is divided by, likewise.
        reduce_counts: sums pixel counts over processes.
    """

    def __init__(
        self, network: MultiScale, *, balanced: bool, over_all: bool = False, reduce_counts: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.network, self.balanced, self.over_all, self.reduce_counts = network, balanced, over_all, reduce_counts

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Make one step's losses.

        Args:
            batch: images (B, 3, H, W); labels (B, H, W) int64, 255 ignored; share: this process's part of the global batch, 0
                for a borrowed image, which counts nothing.

        Returns:
            loss, this process's part of the sum of the losses of all maps; losses: the same to log; views: of the first image
            label maps (1, h, w) or logits (1, classes, h, w) to draw, here the last map's logits as `prediction`.
        """
        labels = batch["labels"] if batch["share"] else torch.full_like(batch["labels"], IGNORE_LABEL)
        outputs = self.network(batch["images"])
        with in_float32(labels.device):
            kind = {"balanced": self.balanced, "over_all": self.over_all and bool(batch["share"])}
            losses = multi_scale_loss(outputs, labels, **kind, reduce_counts=self.reduce_counts)
        loss = losses.sum()
        return {"loss": loss, "losses": {"loss": loss.detach()}, "views": {"prediction": outputs[-1][:1].detach()}}
