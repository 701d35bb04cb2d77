"""The dense CRF in the obvious tensor operations, written straight from the papers; shares no code with the project.

Vertices by `unique` over coordinate rows, splat by `index_add_`, blur and slice by gathers, soft-max over classes.
"""

import math

import torch
from torch import Tensor

Table = tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]


def refine(probabilities: Tensor, image: Tensor, *, iterations: int = 10) -> Tensor:
    """Return refined probabilities (C, H, W) with the published constants (3, 1; 4, 67, 3); `image` (H, W, 3) uint8."""
    classes, height, width = probabilities.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    position = torch.stack([x, y], 2).flatten(0, 1).float().to(image.device)
    kernels = []
    for weight, features in ((3, position), (4, torch.cat([position / 67, image.flatten(0, 1) / 3], 1))):
        table = _lattice(features)
        norm = (_filter(torch.ones_like(features[:, :1]), table) + 1e-20).rsqrt()
        kernels.append((weight, norm, table))
    unary = probabilities.flatten(1).t().clamp(1e-5, 1).log()
    q = unary.softmax(1)
    for _ in range(iterations):
        q = (unary + sum(weight * norm * _filter(norm * q, table) for weight, norm, table in kernels)).softmax(1)
    return q.t().reshape(classes, height, width)


def _lattice(features: Tensor) -> Table:
    """Return the vertices (P, d + 1) and weights (P, d + 1) of each point, and the neighbours of vertices by direction."""
    points, d = features.shape
    scale = [math.sqrt(2 / 3) * (d + 1) / math.sqrt((i + 1) * (i + 2)) for i in range(d)]
    scaled = features * torch.tensor(scale, device=features.device)
    basis = torch.zeros(d + 1, d, device=features.device)
    for axis in range(d):
        basis[: axis + 1, axis] = 1
        basis[axis + 1, axis] = -(axis + 1)
    elevated = scaled @ basis.t()
    base = (elevated / (d + 1)).round() * (d + 1)
    order = torch.argsort(elevated - base, dim=1, descending=True, stable=True)
    rank = order.argsort(1) + (base.sum(1, keepdim=True) / (d + 1)).long()
    shift = (rank < 0).long() - (rank > d).long()
    base, rank = base + shift * (d + 1), rank + shift * (d + 1)
    excess = ((elevated - base) / (d + 1)).gather(1, rank.argsort(1).flip(1))
    weights = torch.cat([1 + excess[:, :1] - excess[:, -1:], excess.diff(dim=1)], 1)
    corner = torch.arange(d + 1, device=features.device)
    step = corner[:, None] - (d + 1) * (corner + corner[:, None] > d).long()
    keys = base.long()[:, None] + step[:, rank].transpose(0, 1)
    vertices, ids = keys.flatten(0, 1).unique(dim=0, return_inverse=True)
    return ids.view(points, d + 1), weights, [_neighbours(vertices, j) for j in range(d + 1)]


def _neighbours(vertices: Tensor, direction: int) -> tuple[Tensor, Tensor]:
    """Return (V) numbers of the vertices after and before each; V where there is none."""
    count, corners = vertices.shape
    move = torch.ones(corners, dtype=torch.int64, device=vertices.device)
    move[direction] -= corners
    found = []
    for wanted in (vertices + move, vertices - move):
        ids = torch.cat([vertices, wanted]).unique(dim=0, return_inverse=True)[1]
        owner = torch.full((2 * count,), count, device=vertices.device)
        owner[ids[:count]] = torch.arange(count, device=vertices.device)
        found.append(owner[ids[count:]])
    return found[0], found[1]


def _filter(values: Tensor, table: Table) -> Tensor:
    ids, weights, neighbours = table
    d = len(neighbours) - 1
    # The last row stays 0: it stands for neighbours that do not exist.
    lattice = values.new_zeros(neighbours[0][0].numel() + 1, values.shape[1])
    lattice.index_add_(0, ids.flatten(), (weights[:, :, None] * values[:, None]).flatten(0, 1))
    for after, before in neighbours:
        lattice[:-1] = lattice[:-1] + (lattice[after] + lattice[before]) / 2
    return (lattice[ids] * weights[:, :, None]).sum(1) / (1 + 2.0**-d)
