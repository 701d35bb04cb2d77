"""Batches of images that have the same size, so that they fit one tensor without padding."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from utils.images import image_size


def image_batches(paths: Sequence[Path], batch_size: int) -> list[list[int]]:
    """Return `batches_by_size` of image files; with a `batch_size` of 1 no file is opened.

    Raises:
        UserError: when an image is missing or unreadable.
    """
    if batch_size == 1:
        return [[index] for index in range(len(paths))]
    return batches_by_size((image_size(path) for path in paths), batch_size)


def batches_by_size(sizes: Iterable[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Group indices by size into batches of at most `batch_size`.

    Args:
        sizes: (W, H) of each image, pixels.
        batch_size: >= 1.

    Returns:
        lists of indices; each index once; sizes in order of first appearance, indices ascending within a size.
    """
    buckets: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        buckets.setdefault(size, []).append(index)
    return [batch for bucket in buckets.values() for batch in _cut(bucket, batch_size)]


def _cut(indices: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    for start in range(0, len(indices), batch_size):
        yield list(indices[start : start + batch_size])
