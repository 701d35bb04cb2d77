"""What CDL adds to a step, from its description: whole affinity matrices, label refresh inside the autograd graph.

The slow side of the comparison. Nothing here is used by the project, and nothing of the project is used here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE, EPSILON = 255, 1e-5
THRESHOLD, UNSURE, SOURCE = 0.9, 0.5, 0.9


def affinity(features: Tensor) -> Tensor:
    """Return (B, N, N), the logistic of the cosine of all pairs of pixels."""
    flat = features.flatten(2)
    norms = flat.norm(dim=1)
    return torch.sigmoid(flat.transpose(1, 2) @ flat / (norms[:, :, None] * norms[:, None] + EPSILON))


def affinity_loss(matrix: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of -ln A over pairs of one class and of -ln(1 - A) over pairs of two."""
    flat = labels.flatten(1)
    valid = (flat != IGNORE)[:, :, None] & (flat != IGNORE)[:, None]
    same = flat[:, :, None] == flat[:, None]
    positive, negative = (valid & same).float(), (valid & ~same).float()
    near = -((matrix + EPSILON).log() * positive).sum() / (positive.sum() + EPSILON)
    return near - ((1 - matrix + EPSILON).log() * negative).sum() / (negative.sum() + EPSILON)


def refresh(first: Tensor, second: Tensor, labels: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, h, w) labels as the experts have them, and what a confident one said (255 elsewhere)."""
    (c1, y1), (c2, y2) = (logits.softmax(1).max(1) for logits in (first, second))
    credible = torch.full_like(labels, IGNORE)
    credible[(c1 > c2) & (c1 >= THRESHOLD)] = y1[(c1 > c2) & (c1 >= THRESHOLD)]
    credible[(c2 > c1) & (c2 >= THRESHOLD)] = y2[(c2 > c1) & (c2 >= THRESHOLD)]
    labels = torch.where(credible != IGNORE, credible, labels)
    sources = (((c1 > SOURCE) | (c2 > SOURCE)) & (labels != IGNORE)).flatten(1).float()
    weights = (matrix - 1).exp() * sources[:, :, None]
    weights = weights / (weights.sum(1, keepdim=True) + EPSILON)
    both = (first + second).flatten(2)
    spread = (0.5 * both + 0.5 * both @ weights).view_as(first)
    return torch.where((c1 < UNSURE) & (c2 < UNSURE), spread.argmax(1), labels), credible


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - the mean Dice coefficient over the classes."""
    classes = logits.shape[1]
    truth = F.one_hot(labels.clone().masked_fill(labels == IGNORE, classes), classes + 1)[..., :classes].movedim(3, 1)
    said = logits.softmax(1)
    both, sizes = (said * truth).sum((0, 2, 3)), said.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    return 1 - (2 * both / (sizes + 1e-7)).mean()


def losses(items: Sequence[tuple[Sequence[Tensor], Tensor]], labels: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the weighted sum over all scales of ((first, second expert), features) and the refreshed labels (CDL-b)."""
    total, refreshed = torch.zeros(()), []
    for ((first, second), features), given in zip(items, labels, strict=True):
        matrix = affinity(features)
        new, credible = refresh(first, second, given, matrix)
        total = total + 0.4 * affinity_loss(matrix, credible)
        total = total + 0.2 * F.cross_entropy(first, new, ignore_index=IGNORE) + 0.2 * dice(second, new)
        refreshed.append(new)
    return total, refreshed
