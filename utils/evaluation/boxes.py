"""Boxes from maps, and scores of localisation: weakly supervised object localisation (WSOL).

Two protocols. One threshold chosen before (CAM, ADL, TS-CAM, CRT): `judge`. All thresholds at once, so that no choice on the
test set decides a ranking (Choe et al., CVPR 2020): `BestThreshold`, whose scores are MaxBoxAcc and MaxBoxAccV2, and of masks
`PixelPrecision`.

A box is [x0, y0, x1, y1] in pixels of the evaluated map; overlaps count both ends as pixels of it, as all these programs do,
although the far side of a predicted box lies one pixel further already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.data.classes import IGNORE
from utils.data.images import GREY_VALUES, MAX_GREY

# The least overlap of a right box; of MaxBoxAccV2 all three.
RIGHT, OVERLAPS = 0.5, (0.3, 0.5, 0.7)
# Of the breakdown of wrong boxes: several objects each covered by more than this; a part of one; more than it.
SEVERAL, PART, MORE = 0.3, 0.5, 0.7
# A map without a contour (constant, or nothing above the threshold).
NO_BOX = (0, 0, 1, 1)
DETAILS = ("right", "class wrong", "several", "part", "more", "wrong")

Boxes = NDArray[np.int64]  # (N, 4)
Grey = NDArray[np.uint8]


def box_on_grid(box: Sequence[float], picture: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return a box given as x, y, width, height in pixels of a picture as corners on a resized one (published: truncated).

    Args:
        box: what `bounding_boxes.txt` of CUB-200-2011 holds; its parts are truncated to whole pixels first.
        picture: (W, H).
        size: (W, H) of the resized picture.
    """
    x, y, width, height = (int(value) for value in box)
    ends = ((x, x + width, 0), (y, y + height, 1))
    (x0, x1), (y0, y1) = (
        (int(max(low / picture[axis] * size[axis], 0)), int(min(high / picture[axis] * size[axis], size[axis] - 1)))
        for low, high, axis in ends
    )
    return x0, y0, x1, y1


def grey_map(cam: NDArray[np.float32], size: tuple[int, int]) -> Grey:
    """Return a class map (h, w) at `size` (W, H), stretched to 0..255 and truncated; a constant map is 0 everywhere."""
    large = cv2.resize(cam, size, interpolation=cv2.INTER_LINEAR)
    low, high = large.min(), large.max()
    if not high > low:  # as well for NaN, of which published code makes undefined values
        return np.zeros(large.shape, np.uint8)
    return np.asarray((large - low) / (high - low) * MAX_GREY).astype(np.uint8)


def largest_box(grey: Grey, threshold: float) -> tuple[int, int, int, int]:
    """Return the bounding box of the contour with the largest area where a map exceeds threshold * maximum (published).

    Contours are outer and inner ones of 8-connected regions; their area is that of the polygon through the pixels' centres, so
    that of a line is 0. Of equal ones the first counts. `NO_BOX` where there is none.
    """
    boxes, areas = _contours(grey, int(threshold * int(grey.max())))
    x0, y0, x1, y1 = boxes[int(np.argmax(areas))].tolist() if len(boxes) else NO_BOX
    return x0, y0, x1, y1


def _contours(grey: Grey, level: int, offset: tuple[int, int] = (0, 0)) -> tuple[Boxes, NDArray[np.float64]]:
    """Return boxes (N, 4) and areas (N,) of all contours where `grey` exceeds `level`; `offset` is the map's place (x, y)."""
    found, _ = cv2.findContours((grey > level).view(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE, offset=offset)
    rectangles = np.array([cv2.boundingRect(contour) for contour in found], np.int64).reshape(-1, 4)
    rectangles[:, 2:] += rectangles[:, :2]
    return rectangles, np.array([cv2.contourArea(contour) for contour in found])


def boxes_at_all_levels(grey: Grey) -> list[tuple[Boxes, NDArray[np.float64]]]:
    """Return boxes and areas of all contours where a map exceeds k, for k = 0..255.

    What exceeds a level lies inside of what exceeds the one below, so each search is confined to the box of the one before.
    """
    levels: list[tuple[Boxes, NDArray[np.float64]]] = []
    nothing = (np.empty((0, 4), np.int64), np.empty(0))
    x0, y0, x1, y1 = 0, 0, grey.shape[1], grey.shape[0]
    present = np.bincount(grey.ravel(), minlength=GREY_VALUES) > 0
    for level in range(GREY_VALUES):
        if level and not present[level]:  # the same pixels as below
            levels.append(levels[-1])
            continue
        found = _contours(grey[y0:y1, x0:x1], level, (x0, y0)) if x1 > x0 else nothing
        levels.append(found)
        boxes = found[0]
        x0, y0, x1, y1 = (*boxes[:, :2].min(0), *boxes[:, 2:].max(0)) if len(boxes) else (0, 0, 0, 0)
    return levels


def overlaps(predicted: Boxes, truth: Boxes) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return (N, M) intersection over union of N with M boxes, and the intersection over the second's and the first's area."""
    first, second = predicted[:, None].astype(np.float64), truth[None].astype(np.float64)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2]) + 1
    shared = np.where((sides > 0).all(-1), sides.prod(-1), 0.0)
    one, other = ((boxes[..., 2:] - boxes[..., :2] + 1).prod(-1) for boxes in (first, second))
    return shared / (one + other - shared), shared / other, shared / one


@dataclass(frozen=True)
class Judgement:
    """What is right about one image, the kind of its mistake (one of DETAILS), and the overlap of the label's own box."""

    top1: bool
    top5: bool
    top1_box: bool
    top5_box: bool
    known_box: bool
    detail: str
    overlap: float


def judge(boxes: Mapping[int, Sequence[int]], label: int, ranked: Sequence[int], truth: Boxes) -> Judgement:
    """Judge an image by the boxes of its class maps at one threshold (published rules, those of CAM and ADL).

    Top-1: the most probable class is right and the box of its map overlaps an object by more than 0.5; Top-5: one of five is
    right and its own box does; GT-known: the box of the label's map overlaps by at least 0.5, whatever was classified.

    Args:
        boxes: class -> box; of `label` and all of `ranked`.
        label: 0-based class.
        ranked: five classes (fewer where there are no more), the most probable first; none: only GT-known can be judged.
        truth: (M, 4), at least one.
    """

    def overlap(k: int) -> float:
        return float(overlaps(np.array([boxes[k]]), truth)[0].max())

    known = overlap(label)
    if not ranked:
        return Judgement(False, False, False, False, known >= RIGHT, DETAILS[-1], known)
    iou, of_truth, of_box = (values[0] for values in overlaps(np.array([boxes[ranked[0]]]), truth))
    top1, top5 = ranked[0] == label, label in ranked
    right = top1 and bool(iou.max() > RIGHT)
    tests = (
        right,
        not top1,
        np.count_nonzero(of_truth > SEVERAL) > 1,
        of_box.max() > PART,
        of_truth.max() >= MORE,
        True,
    )
    detail = next(name for name, holds in zip(DETAILS, tests, strict=True) if holds)
    return Judgement(top1, top5, right, top5 and known > RIGHT, known >= RIGHT, detail, known)


@dataclass
class BestThreshold:
    """Shares of right boxes at every threshold k / 255 of the label's map, for MaxBoxAcc and MaxBoxAccV2.

    Attributes:
        largest: (3, 256) images whose largest contour's box overlaps an object by at least 0.3, 0.5, 0.7.
        any: the same for any of the contours.
        images: how many.
    """

    largest: NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(OVERLAPS), GREY_VALUES), np.int64))
    any: NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(OVERLAPS), GREY_VALUES), np.int64))
    images: int = 0

    def add(self, grey: Grey, truth: Boxes) -> None:
        """Count one image, of a map (`grey_map`) and its objects' boxes (M, 4)."""
        self.images += 1
        found = boxes_at_all_levels(grey)
        counts = [max(1, len(boxes)) for boxes, _ in found]
        every = np.concatenate([boxes if len(boxes) else np.array([NO_BOX]) for boxes, _ in found])
        best = overlaps(every, truth)[0].max(1)
        starts = np.cumsum([0, *counts[:-1]])
        at_largest = best[starts + [int(areas.argmax()) if len(areas) else 0 for _, areas in found]]
        least = np.array(OVERLAPS)[:, None]
        self.largest += at_largest >= least
        self.any += np.maximum.reduceat(best, starts) >= least

    def merge(self, other: "BestThreshold") -> None:
        """Add the counts of other images."""
        self.largest += other.largest
        self.any += other.any
        self.images += other.images

    def summary(self) -> dict[str, float]:
        """Return MaxBoxAcc (largest contour, overlap 0.5), MaxBoxAccV2 (any contour, mean over overlaps) and its parts.

        All are shares in [0, 1]. `threshold` is that of MaxBoxAcc, in [0, 1]; MaxBoxAccV2 has one for each overlap.
        """
        middle = OVERLAPS.index(RIGHT)
        any_best = self.any.max(axis=1) / self.images
        return {
            "max_box_acc": float(self.largest[middle].max() / self.images),
            "threshold": float(self.largest[middle].argmax() / MAX_GREY),
            "max_box_acc_v2": float(any_best.mean()),
            **{f"max_box_acc_v2_at_{overlap}": float(value) for overlap, value in zip(OVERLAPS, any_best, strict=True)},
        }


@dataclass
class PixelPrecision:
    """Pixel average precision, PxAP: one ranking of all pixels of all images by their map's values 0..255.

    Attributes:
        inside: (256,) pixels of objects by value of the map.
        outside: (256,) the other ones; ignored pixels are in neither.
    """

    inside: NDArray[np.int64] = field(default_factory=lambda: np.zeros(GREY_VALUES, np.int64))
    outside: NDArray[np.int64] = field(default_factory=lambda: np.zeros(GREY_VALUES, np.int64))

    def add(self, grey: Grey, labels: NDArray[np.uint8], value: int) -> None:
        """Count the map (H, W) of the class that has `value` in the label map (h, w), which is brought to its size."""
        labels = np.asarray(cv2.resize(labels, grey.shape[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
        self.inside += np.bincount(grey[labels == value], minlength=GREY_VALUES)
        self.outside += np.bincount(grey[(labels != value) & (labels != IGNORE)], minlength=GREY_VALUES)

    def merge(self, other: "PixelPrecision") -> None:
        """Add the counts of other images."""
        self.inside += other.inside
        self.outside += other.outside

    def value(self) -> float | None:
        """Return the sum over thresholds of precision times the recall gained there, in [0, 1]; None without objects."""
        found, others = (np.cumsum(counts[::-1]) for counts in (self.inside, self.outside))
        if not found[-1]:
            return None
        return float((found / np.maximum(found + others, 1) * self.inside[::-1]).sum() / found[-1])
