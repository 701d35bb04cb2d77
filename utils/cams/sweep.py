"""Every background threshold of a CAM evaluation from one pass over the images, exactly.

Which class wins at a pixel and how high it scores do not depend on the background threshold; only whether that score
beats the threshold does. With CAMs stored as 8-bit values, counts by (ground truth, winner, score) hold all there is.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.cams.store import LabelledId, chunked, read_cams
from utils.data.classes import BACKGROUND, label_value
from utils.data.folder import DataFolder
from utils.data.images import GREY_VALUES, MAX_GREY, read_label_map
from utils.runtime.parallel import map_progress

# Scores as the published program compares them: float32 PNG / 255 against a float32 threshold, so that 51 / 255 equals 0.2.
SCORES = np.arange(GREY_VALUES, dtype=np.float32) / np.float32(MAX_GREY)


def winning_class(cams: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return (position in `cams`, value) of the largest map at each pixel, both (H, W); equal maps: the first wins.

    Args:
        cams: at least one (H, W) map in 0..255.
    """
    value = cams[0]
    winner = np.zeros(value.shape, np.uint8)
    for position, cam in enumerate(cams[1:], start=1):
        np.copyto(winner, np.uint8(position), where=cam > value)
        value = np.maximum(value, cam)
    return winner, value


def first_level_above(threshold: float) -> int:
    """Return the smallest 8-bit value whose score beats `threshold` in float32 (ties are background); 256: none does."""
    return int(np.count_nonzero(np.float32(threshold) >= SCORES))


class JointHistogram:
    """Pixel counts by (ground truth, winning class, 8-bit score); ground truth 255 is left out.

    Attributes:
        counts: (C + 1, C, 256) int64.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes + 1, num_classes, GREY_VALUES), np.int64)

    def add(self, ground_truth: NDArray[np.uint8], classes: Sequence[int], cams: Sequence[NDArray[np.uint8]]) -> None:
        """Count one image.

        Args:
            ground_truth: (H, W) label map, 0..C or 255.
            classes: present classes, 0-based, ascending; none: every pixel is background at every threshold.
            cams: (H, W) 8-bit map of each.
        """
        if not classes:
            # A score of 0 never beats a threshold, so the class it is filed under does not matter.
            classes, cams = (0,), (np.zeros_like(ground_truth),)
        winner, value = winning_class(cams)
        key = (ground_truth.astype(np.int64) << 8) | value
        if len(classes) > 1:
            key += winner.astype(np.int64) << 16
        counts = np.bincount(key.ravel(), minlength=len(classes) * GREY_VALUES * GREY_VALUES).reshape(
            -1, GREY_VALUES, GREY_VALUES
        )
        for class_index, part in zip(classes, counts, strict=True):
            self.counts[:, class_index] += part[: self.num_classes + 1]

    def to_sparse(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (flat positions, counts) of the entries that are not 0: what a worker process sends home."""
        flat = self.counts.ravel()
        positions = np.flatnonzero(flat)
        return positions, flat[positions]

    def merge_sparse(self, positions: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Add what `to_sparse` of another histogram returned."""
        self.counts.reshape(-1)[positions] += counts

    def confusion(self, threshold: float) -> NDArray[np.int64]:
        """Return the (C + 1, C + 1) confusion matrix at a background threshold in [0, 1] (rows: ground truth)."""
        return self._with_background(self.counts[:, :, first_level_above(threshold) :].sum(axis=-1)[None])[0]

    def confusions(self) -> NDArray[np.int64]:
        """Return the confusion matrices at all thresholds k / 255 that differ, (256, C + 1, C + 1) for k = 0..255."""
        from_level = np.cumsum(self.counts[:, :, ::-1], axis=-1)[:, :, ::-1]
        above = np.zeros((GREY_VALUES, *from_level.shape[:2]), np.int64)
        above[:-1] = np.moveaxis(from_level[:, :, 1:], -1, 0)
        return self._with_background(above)

    def _with_background(self, above: NDArray[np.int64]) -> NDArray[np.int64]:
        """Complete (T, C + 1, C) counts of pixels won by a class: the other pixels of a row are background."""
        labels = [label_value(k) for k in range(self.num_classes)]
        matrices = np.zeros((len(above), self.num_classes + 1, self.num_classes + 1), np.int64)
        matrices[:, :, labels] = above
        matrices[:, :, BACKGROUND] = self.counts.sum(axis=(1, 2)) - above.sum(axis=-1)
        return matrices


CHUNK = 16


def sweep(data: DataFolder, cam_dir: Path, tasks: Sequence[LabelledId], *, workers: int) -> JointHistogram:
    """Count the CAMs `<cam_dir>/<id>_<class>.png` of all images on `workers` processes (0: one per core).

    Raises:
        UserError: naming a file that is missing, damaged, of the wrong size or with labels out of range.
    """
    total = JointHistogram(data.num_classes)
    what = f"evaluate ({CHUNK} images each)"
    work = partial(count_chunk, data, cam_dir)
    for positions, counts in map_progress(work, chunked(tasks, CHUNK), workers=workers, what=what):
        total.merge_sparse(positions, counts)
    return total


def count_chunk(data: DataFolder, cam_dir: Path, tasks: Sequence[LabelledId]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count a few images in this process; returns `JointHistogram.to_sparse` of their sum."""
    histogram = JointHistogram(data.num_classes)
    for image_id, classes in tasks:
        ground_truth = read_label_map(data.truth(image_id), data.num_classes)
        height, width = ground_truth.shape
        cams = read_cams(cam_dir, image_id, classes, (width, height))
        histogram.add(ground_truth, classes, cams)
    return histogram.to_sparse()
