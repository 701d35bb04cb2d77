"""Pixel affinity of CDL, and what is made of it, without ever holding the whole (B, N, N) matrix.

Of a picture of 321 pixels at twice its size, N is 6561: 172 MB a matrix and image. What is wanted is a loss and its gradient,
or a product with a few columns; both are sums over blocks. The loss takes each pair once, as the matrix is symmetric, and
leaves out what is ignored; its gradient is made beside its value.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from configs.deeplab_schema import IGNORE_LABEL

EPSILON = 1e-5
# Elements of one block (16 MiB in float32).
BLOCK_ELEMENTS = 2**22


def similarity(rows: Tensor, columns: Tensor, *, cosine: bool) -> Tensor:
    """Return the affinity (R, C) in (0, 1) of features (D, R) and (D, C): the logistic of their cosine (CDL-b), or product."""
    products = rows.T @ columns
    if cosine:
        products = products / (torch.outer(rows.norm(dim=0), columns.norm(dim=0)) + EPSILON)
    return products.sigmoid_()


def propagate(logits: Tensor, sources: Tensor, targets: Tensor, *, cosine: bool) -> Tensor:
    """Return (classes, T), for each target the mean of the sources' logits, weighted by exp(affinity - 1).

    Args:
        logits: (classes, S); S may be 0, what comes out is then 0.
        sources: features (D, S).
        targets: features (D, T).
        cosine: see `similarity`.
    """
    # A row of ones gives the normaliser in the same product.
    augmented = torch.cat([logits, torch.ones_like(logits[:1])])
    block = max(1, BLOCK_ELEMENTS // max(1, sources.shape[1]))
    columns = [augmented @ similarity(sources, part, cosine=cosine).sub_(1).exp_() for part in targets.split(block, dim=1)]
    out = torch.cat(columns, dim=1)
    return out[:-1] / (out[-1:] + EPSILON)


def affinity_losses(
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    cosine: bool,
    negative_weight: float,
    reduce_counts: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> Tensor:
    """Return for each map the loss that affinity be 1 within and 0 between classes, (M,).

    -sum over pairs of one class of ln(A + 1e-5) / their number, and the same of 1 - A over pairs of two, over the mini-batch.

    Args:
        features: (B or 2B, D, h, w) of several sizes; of 2B the affinity is the mean of both halves' (CDL-e).
        targets: (B, h, w) int64, 255 ignored: only pairs of two labelled pixels count.
        cosine: see `similarity`.
        negative_weight: of the second sum (CDL-b 1, CDL-e 2).
        reduce_counts: sums pair counts over processes; then each process returns its part of the global loss.
    """
    counts = reduce_counts(torch.stack([_pairs(target) for target in targets]))
    # Not made on the device: that would wait for the work queued there.
    weights = torch.tensor([1.0, negative_weight]).to(counts.device, non_blocking=True) / (counts + EPSILON)
    losses = []
    for maps, target, (positive, negative) in zip(features, targets, weights.unbind(), strict=True):
        views = maps.flatten(2).unflatten(0, (-1, target.shape[0]))  # (1 or 2, B, D, N)
        total = maps.sum() * 0  # takes part in the graph, whatever is ignored
        for image, labels in enumerate(target.flatten(1)):
            kept = (labels != IGNORE_LABEL).nonzero()[:, 0]
            if len(kept):
                f = views[:, image, :, kept]
                norms = f.norm(dim=1) if cosine else None
                total = total + _PairLoss.apply(f, norms, labels[kept], positive, negative)
        losses.append(total)
    return torch.stack(losses)


def _pairs(target: Tensor) -> Tensor:
    """Return the numbers of ordered pairs of one class and of two, (2,) float64; a pixel makes a pair with itself."""
    flat = target.flatten(1).clamp_max(IGNORE_LABEL)
    histogram = torch.zeros(len(flat), IGNORE_LABEL + 1, dtype=torch.float64, device=flat.device)
    histogram.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
    labelled = histogram[:, :IGNORE_LABEL]
    same = labelled.square().sum()
    return torch.stack([same, labelled.sum(dim=1).square().sum() - same])


class _PairLoss(torch.autograd.Function):
    """Sum over the pairs of one image's pixels, by blocks of rows against the columns from there on."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, norms: Tensor | None, labels: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the scalar of features (V, D, N), norms (V, N) or None, labels (N,) and weights of the two kinds of pairs."""
        views, _, count = features.shape
        needed = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(features) if needed else None
        norm_gradient = torch.zeros_like(norms) if needed and norms is not None else None
        total = features.new_zeros(())
        step = max(1, BLOCK_ELEMENTS // count)
        for start in range(0, count, step):
            rows, columns = slice(start, min(start + step, count)), slice(start, count)
            same = labels[rows, None] == labels[columns]
            weights = torch.where(same, positive, negative).to(features.dtype)
            weights[:, rows.stop - start :] *= 2  # a pair with a later row stands for both of its orders
            sign = torch.where(same, 1.0, -1.0).to(features.dtype)
            shares, scales = [], []
            for v in range(views):
                z = features[v, :, rows].T @ features[v, :, columns]
                if norms is not None:
                    scale = torch.outer(norms[v, rows], norms[v, columns]).add_(EPSILON)
                    z /= scale
                    scales.append((z, scale))
                shares.append((z * sign).sigmoid_())  # A where it should be 1, 1 - A where it should be 0
            share = torch.stack(shares).mean(dim=0).add_(EPSILON) if views > 1 else shares[0] + EPSILON
            total -= (share.log() * weights).sum()
            if gradient is None:
                continue
            common = weights.mul_(sign).div_(share).neg_()
            for v in range(views):
                g = common * shares[v] * (1 - shares[v]) / views
                if norms is not None and norm_gradient is not None:
                    z, scale = scales[v]
                    g /= scale
                    by_norm = (g * z).neg_()
                    norm_gradient[v, rows] += by_norm @ norms[v, columns]
                    norm_gradient[v, columns] += norms[v, rows] @ by_norm
                gradient[v, :, rows] += features[v, :, columns] @ g.T
                gradient[v, :, columns] += features[v, :, rows] @ g
        ctx.save_for_backward(gradient, norm_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients made beside the value."""
        gradient, norm_gradient = ctx.saved_tensors
        return (
            None if gradient is None else gradient * upstream,
            None if norm_gradient is None else norm_gradient * upstream,
            None, None, None,
        )  # fmt: skip
