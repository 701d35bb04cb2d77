"""The published evaluation sweep and label generation, written straight from their description.

One pass over all files for each threshold; float32 stacks of C + 1 channels; one histogram for each image row. The
description names OpenCV as reader and writer of pictures, and so do we.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Labels = Mapping[str, Sequence[int]]


def _predict(cam_dir: Path, image_id: str, classes: Sequence[int], scores: NDArray[np.float32], threshold: float) -> Any:
    scores[0] = threshold
    for k in classes:
        cam: Any = cv2.imread(str(cam_dir / f"{image_id}_{k}.png"), cv2.IMREAD_GRAYSCALE)
        scores[k + 1] = cam.astype(np.float32) / 255
    return scores.argmax(axis=0)


def _count_rows(truth: NDArray[np.uint8], prediction: NDArray[np.int64], values: int) -> NDArray[np.int64]:
    counts = np.zeros((values, values), np.int64)
    for truth_row, row in zip(truth, prediction, strict=True):
        valid = (truth_row < values) & (row < values)
        key = values * truth_row[valid].astype(np.int64) + row[valid]
        counts += np.bincount(key, minlength=values**2).reshape(values, values)
    return counts


def sweep(cam_dir: Path, label_dir: Path, labels: Labels, num_classes: int, thresholds: Sequence[float]) -> NDArray[np.int64]:
    """Return the confusion matrix (rows: ground truth) at each threshold, (T, C + 1, C + 1)."""
    values = num_classes + 1
    counts = np.zeros((len(thresholds), values, values), np.int64)
    for position, threshold in enumerate(thresholds):
        for image_id, classes in labels.items():
            truth = np.array(Image.open(label_dir / f"{image_id}.png"))
            scores = np.zeros((values, *truth.shape), np.float32)
            counts[position] += _count_rows(truth, _predict(cam_dir, image_id, classes, scores, threshold), values)
    return counts


def gen_gt(image_dir: Path, cam_dir: Path, out_dir: Path, labels: Labels, num_classes: int, threshold: float) -> None:
    """Write the grey label map `<out_dir>/<id>.png` of each image."""
    for image_id, classes in labels.items():
        image: Any = cv2.imread(str(image_dir / f"{image_id}.jpg"))
        height, width = image.shape[:2]
        scores = np.zeros((num_classes + 1, height, width), np.float32)
        # The second stack the published program fills and never uses.
        unused = np.zeros((num_classes + 1, height, width), np.float32)
        unused[0] = threshold
        prediction = _predict(cam_dir, image_id, classes, scores, threshold)
        cv2.imwrite(str(out_dir / f"{image_id}.png"), prediction.astype(np.uint8))
