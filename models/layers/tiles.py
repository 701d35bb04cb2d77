"""Overlapping tiles of pictures, and the mean of what is said about them where they overlap."""

from torch import Tensor
from torch.nn import functional as F

Grid = tuple[int, int]


def padded_side(side: int, tile: int, stride: int, *, exact: bool = False) -> int:
    """Return how long a side must be so that tiles cover it without rest, at least one tile.

    Args:
        side: pixels, >= 1.
        tile: side of a tile; a multiple of `stride`.
        stride: between tiles.
        exact: False: a side that fits already grows by a stride as well (published CRT).
    """
    steps = -(-side // stride) if exact else side // stride + 1
    return max(steps * stride, tile)


def pad_to_tiles(images: Tensor, tile: int, stride: int, *, exact: bool = False) -> Tensor:
    """Return images (B, C, H, W) with zeros right and below, see `padded_side`."""
    height, width = (padded_side(side, tile, stride, exact=exact) for side in images.shape[2:])
    return F.pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))


def cut_tiles(images: Tensor, tile: int, stride: int) -> tuple[Tensor, Grid]:
    """Cut images that tiles cover without rest.

    Args:
        images: (B, C, H, W); H and W are `tile` plus a multiple of `stride`.
        tile: side, pixels.
        stride: between tiles.

    Returns:
        (n B, C, tile, tile): the first tile of all images, then the second of all, row by row; rows and columns of tiles, n in
        all.
    """
    tiles = images.unfold(2, tile, stride).unfold(3, tile, stride)
    rows, columns = tiles.shape[2:4]
    return tiles.permute(2, 3, 0, 1, 4, 5).flatten(0, 2), (rows, columns)


def merge_tiles(maps: Tensor, grid: Grid, stride: int) -> Tensor:
    """Undo `cut_tiles` for maps of tiles, (n B, C, p, p), `stride` cells apart: (B, C, H, W), the mean where they overlap."""
    side, count = maps.shape[-1], grid[0] * grid[1]
    height, width = (side + (n - 1) * stride for n in grid)
    columns = maps.unflatten(0, (count, -1)).flatten(2).permute(1, 2, 0)
    ones = columns.new_ones(1, side * side, count)
    total, seen = (F.fold(part, (height, width), side, stride=stride) for part in (columns, ones))
    return total / seen
