"""Segmentation scores, all of them read from one confusion matrix."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UINT8_VALUES = 256


@dataclass(frozen=True)
class Scores:
    """Per-class scores in [0, 1], background first; shape (..., C + 1) float64, NaN where a score is undefined.

    `iou` is undefined for a class in neither ground truth nor prediction, `precision` for one never predicted, `recall` for
    one without ground truth.
    """

    iou: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    @property
    def mean_iou(self) -> NDArray[np.float64]:
        """Return the mean over the classes whose IoU is defined, shape (...); NaN when there is none."""
        return nan_mean(self.iou)


def confusion_matrix(ground_truth: NDArray[np.uint8], prediction: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    """Count pixels by (ground truth, prediction).

    Args:
        ground_truth: (H, W) label map, 0 background, 1..C classes; other values (255) are left out.
        prediction: (H, W) label map; pixels with other values (255, "ignored") are left out as well (published rule).
        num_classes: C, background not counted.

    Returns:
        (C + 1, C + 1), row = ground truth, column = prediction.
    """
    pairs = (ground_truth.astype(np.uint16) << 8) | prediction
    counts = np.bincount(pairs.ravel(), minlength=UINT8_VALUES * UINT8_VALUES).reshape(UINT8_VALUES, UINT8_VALUES)
    labels = num_classes + 1
    return counts[:labels, :labels].astype(np.int64)


def score(confusion: NDArray[np.int64]) -> Scores:
    """Compute IoU, precision and recall per class from (..., C + 1, C + 1) counts (rows: ground truth)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    truth, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    return Scores(_ratio(hits, truth + predicted - hits), _ratio(hits, predicted), _ratio(hits, truth))


def absent_as_zero(scores: Scores) -> Scores:
    """Return the scores with 0 where they are undefined, so that their means are over all classes (published WS-FCN)."""
    return Scores(*(np.nan_to_num(values, nan=0.0) for values in (scores.iou, scores.precision, scores.recall)))


def activation_errors(confusion: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return per label what is wrongly given to it and what it misses, both as shares of the union (1 - IoU is their sum).

    Too many false positives: maps spread too far; too many false negatives: they cover too little.

    Args:
        confusion: (..., C + 1, C + 1) counts (rows: ground truth).

    Returns:
        False positives and false negatives, (..., C + 1) float64; NaN for a label in neither ground truth nor prediction.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    truth, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    union = truth + predicted - hits
    return _ratio(predicted - hits, union), _ratio(truth - hits, union)


def row_shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each row (C + 1, C + 1; ground truth) divided by its sum; NaN for rows without pixels."""
    return _ratio(confusion, confusion.sum(axis=1, keepdims=True))


def average_precision(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each class's average precision, the sum of precision times the step in recall (as scikit-learn has it).

    Args:
        scores: (N, C), the higher the more likely.
        labels: (N, C), whether the class is there. Images of equal score count as one threshold.

    Returns:
        (C,) in [0, 1]; NaN for a class without any image.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked, sorted_scores = np.take_along_axis(labels, order, 0), np.take_along_axis(scores, order, 0)
    hits = ranked.cumsum(axis=0)
    precision = hits / np.arange(1, len(scores) + 1)[:, None]
    recall = _ratio(hits, hits[-1:])
    # A threshold ends where the next score is another one.
    ends = np.ones_like(ranked)
    ends[:-1] = sorted_scores[1:] != sorted_scores[:-1]
    total = np.zeros(scores.shape[1])
    for column in range(scores.shape[1]):
        last = ends[:, column]
        total[column] = np.sum(np.diff(recall[last, column], prepend=0.0) * precision[last, column])
    return total


def nan_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the last axis of the values that are not NaN; NaN (without a warning) when there is none."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        # where= keeps NumPy's summation order over all entries, as np.nanmean does: equal to it to the last bit.
        return np.where(defined, values, 0.0).sum(axis=-1) / defined.sum(axis=-1)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return part / whole
