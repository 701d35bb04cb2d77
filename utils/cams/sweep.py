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
from utils.data.images import GREY_VALUES, MAX_GREY, image_size, read_label_map, read_saliency
from utils.evaluation.metrics import score
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
# What CAMs are counted against: ground truth, or what saliency says without any (see `salient_labels`).
TRUTH, SALIENCY = "truth", "saliency"


def sweep(
    data: DataFolder, cam_dir: Path, tasks: Sequence[LabelledId], *, workers: int, against: Sequence[str] = (TRUTH,)
) -> dict[str, JointHistogram]:
    """Count the CAMs `<cam_dir>/<id>_<class>.png` of all images on `workers` processes (0: one per core).

    Args:
        data: the data folder.
        cam_dir: of the CAMs.
        tasks: ids with their classes.
        workers: processes.
        against: what to count against, TRUTH or SALIENCY or both, in one pass.

    Returns:
        a histogram for each of `against`.

    Raises:
        UserError: naming a file that is missing, damaged, of the wrong size or with labels out of range.
    """
    totals = {name: JointHistogram(data.num_classes) for name in against}
    what = f"count CAMs ({CHUNK} images each)"
    work = partial(count_chunk, data, cam_dir, tuple(against))
    for parts in map_progress(work, chunked(tasks, CHUNK), workers=workers, what=what):
        for total, part in zip(totals.values(), parts, strict=True):
            total.merge_sparse(*part)
    return totals


def count_chunk(
    data: DataFolder, cam_dir: Path, against: Sequence[str], tasks: Sequence[LabelledId]
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Count a few images in this process; returns `JointHistogram.to_sparse` of their sum for each of `against`."""
    histograms = {name: JointHistogram(data.num_classes) for name in against}
    for image_id, classes in tasks:
        truth = read_label_map(data.truth(image_id), data.num_classes) if TRUTH in against else None
        size = image_size(data.image(image_id)) if truth is None else (truth.shape[1], truth.shape[0])
        cams = read_cams(cam_dir, image_id, classes, size)
        if truth is not None:
            histograms[TRUTH].add(truth, classes, cams)
        if SALIENCY in against:
            saliency = np.asarray(read_saliency(data.saliency(image_id), size))
            histograms[SALIENCY].add(salient_labels(saliency, classes, cams), classes, cams)
    return [histogram.to_sparse() for histogram in histograms.values()]


def salient_labels(saliency: NDArray[np.uint8], classes: Sequence[int], cams: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the (H, W) label map of an (H, W) 8-bit saliency map: what is more salient than not has its highest CAM's class.

    Agreement with it over thresholds is agreement on the extent of objects, and needs no mask: the threshold where it is
    largest can be taken where there is no ground truth, and does not look at it where there is.
    """
    labels = np.full(saliency.shape, BACKGROUND, np.uint8)
    if classes:
        values = np.array([label_value(index) for index in classes], np.uint8)
        np.copyto(labels, values[winning_class(cams)[0]], where=saliency > MAX_GREY // 2)
    return labels


def best_level(histogram: JointHistogram) -> tuple[int, NDArray[np.float64]]:
    """Return the k of the background threshold k / 255 with the highest mean IoU, and the mean IoU at each, (256,)."""
    curve = np.asarray(score(histogram.confusions()).mean_iou)
    return int(curve.argmax()), curve
