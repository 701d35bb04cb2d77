"""Average precision of instance masks, as PASCAL VOC counts it, at a mask IoU of 0.5."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.data.classes import BACKGROUND, IGNORE, class_index
from utils.data.images import read_label_map
from utils.errors import UserError, import_optional

LEAST_IOU = 0.5
# An 8-bit map has so many numbers below 255 for objects.
MOST_OBJECTS = 254


@dataclass
class Matches:
    """Of each class: scores of predictions and whether they are right, and how many objects there are."""

    scores: dict[int, list[tuple[float, bool]]] = field(default_factory=dict)
    objects: dict[int, int] = field(default_factory=dict)

    def add(self, other: "Matches") -> None:
        """Add those of other images."""
        for k, rows in other.scores.items():
            self.scores.setdefault(k, []).extend(rows)
        for k, count in other.objects.items():
            self.objects[k] = self.objects.get(k, 0) + count

    def average_precision(self) -> dict[int, float]:
        """Return of each class that has objects the area under the envelope of precision over recall."""
        return {k: _area(self.scores.get(k, []), count) for k, count in sorted(self.objects.items()) if count}


def match_instances(
    masks: NDArray[np.bool_],
    classes: NDArray[np.int64],
    scores: NDArray[np.float32],
    true_masks: NDArray[np.bool_],
    true_classes: Sequence[int],
) -> Matches:
    """Match the predictions of an image, the surest first, each with the object of its class it covers best.

    Args:
        masks: (R, H, W) of predictions, with classes (R,) and scores (R,).
        true_masks: (T, H, W) of objects, with classes.
    """
    found = Matches()
    for k in true_classes:
        found.objects[k] = found.objects.get(k, 0) + 1
    taken: set[int] = set()
    for r in np.argsort(-scores, kind="stable"):
        own = [t for t, k in enumerate(true_classes) if k == classes[r]]
        overlaps = [np.count_nonzero(masks[r] & true_masks[t]) / np.count_nonzero(masks[r] | true_masks[t]) for t in own]
        best = int(np.argmax(overlaps)) if overlaps else -1
        right = best >= 0 and bool(overlaps[best] >= LEAST_IOU) and own[best] not in taken
        if right:
            taken.add(own[best])
        found.scores.setdefault(int(classes[r]), []).append((float(scores[r]), right))
    return found


def _area(rows: Sequence[tuple[float, bool]], objects: int) -> float:
    if not rows:
        return 0.0
    scores, right = (np.array(values) for values in zip(*rows, strict=True))
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    recall = np.concatenate([[0.0], hits / objects])
    precision = np.concatenate([hits / np.arange(1, len(hits) + 1), [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1][:-1]
    return float((np.diff(recall) * envelope).sum())


def read_truth(
    folder: Path, image_id: str, size: tuple[int, int], classes: Path, num_classes: int
) -> tuple[NDArray[np.bool_], list[int]] | None:
    """Return the objects of an image, masks (T, H, W) and classes, 0-based; None where there is no ground truth.

    Args:
        folder: of SegmentationObject PNGs <id>.png, numbered from 1, or of SBD's inst files <id>.mat.
        image_id: which.
        size: (W, H) it must have.
        classes: the label map that says what the objects of a PNG are.
        num_classes: foreground classes.

    Raises:
        UserError: for files that are damaged, of another size, or do not fit each other.
    """
    if (path := folder / f"{image_id}.mat").exists():
        return _read_sbd(path, size)
    if not (path := folder / f"{image_id}.png").exists():
        return None
    objects = read_label_map(path, MOST_OBJECTS, size)
    labels = read_label_map(classes, num_classes, size)
    masks, found = [], []
    for number in np.unique(objects[(objects > 0) & (objects != IGNORE)]):
        mask = objects == number
        values, counts = np.unique(labels[mask & (labels != IGNORE) & (labels != BACKGROUND)], return_counts=True)
        if not len(values):
            raise UserError(f"object {number} of {path} has no class in {classes}; these are files of different pictures")
        masks.append(mask)
        found.append(class_index(int(values[counts.argmax()])))
    return np.array(masks, bool).reshape(-1, *size[::-1]), found


def _read_sbd(path: Path, size: tuple[int, int]) -> tuple[NDArray[np.bool_], list[int]]:
    scipy_io = import_optional("scipy.io", "scipy", "reading SBD's .mat files")
    try:
        content = scipy_io.loadmat(path)["GTinst"]
        objects = np.asarray(content["Segmentation"][0, 0])
        found = [class_index(int(value)) for value in np.asarray(content["Categories"][0, 0]).ravel()]
    except Exception as error:  # scipy raises whatever its parser stumbles over
        raise UserError(f"{path} is no SBD instance file ({type(error).__name__}: {error}); download SBD again") from error
    if objects.shape != size[::-1] or objects.max(initial=0) > len(found):
        raise UserError(f"{path} has {objects.shape} pixels and {len(found)} objects, expected {size[::-1]} and their numbers")
    return objects == np.arange(1, len(found) + 1)[:, None, None], found
