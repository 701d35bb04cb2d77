"""Scores of the segmentation stage, and the files they are written to."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.files import write_text_atomic
from utils.metrics import nan_mean, score
from utils.score_report import number_or_none, score_table

INDENT = 4


def published_scores(confusion: NDArray[np.int64]) -> dict[str, Any]:
    """Return the scores the published program wrote, as fractions.

    Mean IoU and Mean Accuracy are means over the classes with ground-truth pixels; a class that is only predicted has IoU 0
    and does not count; one in neither has none (None; the published file held NaN, which is no JSON).

    Args:
        confusion: (classes, classes) pixel counts, row = ground truth.
    """
    values = score(confusion)
    truth = confusion.sum(axis=1)
    total = truth.sum()
    present = truth > 0
    iou = np.where(present, values.iou, np.nan)
    share = truth[present] / max(1, total)
    return {
        "Pixel Accuracy": number_or_none(np.diagonal(confusion).sum() / total) if total else None,
        "Mean Accuracy": number_or_none(float(nan_mean(values.recall))),
        "Frequency Weighted IoU": number_or_none(float((share * values.iou[present]).sum())) if total else None,
        "Mean IoU": number_or_none(float(nan_mean(iou))),
        "Class IoU": {index: number_or_none(value) for index, value in enumerate(values.iou.tolist())},
    }


def write_scores(
    folder: Path, stem: str, confusion: NDArray[np.int64], names: Sequence[str], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write <stem>.json, <stem>.txt (a table) and <stem>_confusion.png; return what the JSON file holds.

    Args:
        folder: to write to.
        stem: "scores" or "scores_crf" (published names).
        confusion: pixel counts.
        names: of the classes, background first.
        about: how the scores came about: weights, settings, counts.
    """
    from utils.plots import plot_confusion  # here: matplotlib takes a second to load, and CRF processes do not draw

    result = {
        **published_scores(confusion),
        "Class Names": list(names),
        "Confusion Matrix": confusion.tolist(),
        **about,
    }
    write_text_atomic(folder / f"{stem}.json", json.dumps(result, indent=INDENT, sort_keys=True, allow_nan=False) + "\n")
    write_text_atomic(folder / f"{stem}.txt", score_table(score(confusion), names) + "\n")
    plot_confusion(folder / f"{stem}_confusion.png", names, confusion)
    return result


def summary(result: Mapping[str, Any]) -> str:
    """Return one line of the four means, in percent."""
    keys = ("Mean IoU", "Pixel Accuracy", "Mean Accuracy", "Frequency Weighted IoU")
    return ", ".join(f"{key} {100 * result[key]:.2f}" if result[key] is not None else f"{key} -" for key in keys)
