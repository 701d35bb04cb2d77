"""The random walk as published: the whole matrix of all cells, squared again and again."""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.layers.pixel_pairs import affinities, pixel_pairs


def dense_walk(
    maps: Tensor, boundary: Tensor, *, beta: float, exp_times: int | None = 8, steps: int = 0, radius: int = 5
) -> Tensor:
    """Return walked maps (K, H, W) of maps (K, H, W) along a boundary (1, H, W).

    Args:
        maps, boundary, beta, radius: as of `models.refiners.random_walk.random_walk`, of one picture.
        exp_times: how often the matrix is squared; None: it is multiplied with itself `steps` times.
        steps: number of steps without squaring.
    """
    height, width = boundary.shape[1:]
    cells = height * width
    # A frame around the picture is a boundary, so that all pairs of its cells lie inside.
    padded = F.pad(boundary[None], (radius, radius, 0, radius), value=1.0)
    rows, columns = padded.shape[2] - radius + 1, padded.shape[3] - 2 * (radius - 1)
    own = torch.arange(padded[0, 0].numel()).view(padded.shape[2:])[:rows, radius - 1 : radius - 1 + columns].flatten()
    pairs = affinities(padded, radius)[0]
    matrix = torch.eye(padded[0, 0].numel(), dtype=maps.dtype)
    for (dy, dx), values in zip((pair.offset for pair in pixel_pairs(radius)), pairs, strict=True):
        other = own + dy * padded.shape[3] + dx
        matrix[own, other] = values
        matrix[other, own] = values
    inside = torch.arange(len(matrix)).view(padded.shape[2:])[:height, radius : radius + width].flatten()
    matrix = matrix[inside][:, inside]
    start = (maps * (1 - boundary)).reshape(len(maps), cells)
    if exp_times is None:
        once = transition(matrix, beta=beta, exp_times=0)
        for _ in range(steps):
            start = start @ once
        return start.view(maps.shape)
    return (start @ transition(matrix, beta=beta, exp_times=exp_times)).view(maps.shape)


def transition(matrix: Tensor, *, beta: float, exp_times: int) -> Tensor:
    """Return the matrix of 2^exp_times steps of affinities (N, N): powers, divided by the sums of columns, squared."""
    found = matrix**beta
    found = found / found.sum(dim=0, keepdim=True)
    for _ in range(exp_times):
        found = found @ found
    return found
