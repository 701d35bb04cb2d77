"""Scores as people and programs read them: a console table, JSON-ready dictionaries, and the published text layout."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.data.classes import BACKGROUND
from utils.evaluation.metrics import Scores, activation_errors, nan_mean, score
from utils.files import remove_leftovers, write_text_atomic

PUBLISHED_INDENT = 4


def number_or_none(value: float) -> float | None:
    """Return a float JSON can hold: None for NaN."""
    return None if math.isnan(value) else float(value)


def scores_to_dict(scores: Scores, names: Sequence[str]) -> dict[str, Any]:
    """Return {"mean_iou", "iou", "precision", "recall"}, the last three by label name; undefined scores are None."""
    result: dict[str, Any] = {"mean_iou": number_or_none(float(scores.mean_iou))}
    for key in ("iou", "precision", "recall"):
        result[key] = {name: number_or_none(v) for name, v in zip(names, getattr(scores, key).tolist(), strict=True)}
    return result


def all_means(scores: Scores) -> dict[str, float | None]:
    """Return {"mean_iou", "mean_precision", "mean_recall"}, and as "..._foreground" those without background."""
    columns = {"iou": scores.iou, "precision": scores.precision, "recall": scores.recall}
    parts = {"": BACKGROUND, "_foreground": BACKGROUND + 1}
    return {
        f"mean_{name}{part}": number_or_none(float(nan_mean(values[first:])))
        for part, first in parts.items()
        for name, values in columns.items()
    }


def counts_path(report: Path) -> Path:
    """Return the file of pixel counts beside a JSON report: result.json -> result_counts.json."""
    return report.with_name(f"{report.stem}_counts.json")


def counts_text(names: Sequence[str], confusion: NDArray[np.int64], more: Mapping[str, Any] | None = None) -> str:
    """Return JSON with "names", the (C + 1, C + 1) "confusion" (rows: ground truth) and `more`, on one line."""
    content = {"names": list(names), "confusion": confusion.tolist(), **(more or {})}
    return json.dumps(content, allow_nan=False) + "\n"


def mean_errors(confusions: NDArray[np.int64]) -> dict[str, list[float | None]]:
    """Return {"false_positives", "false_negatives"}: for each matrix the mean over the classes (background not among them).

    Args:
        confusions: (T, C + 1, C + 1) counts (rows: ground truth).
    """
    names = ("false_positives", "false_negatives")
    means = [nan_mean(errors[:, BACKGROUND + 1 :]) for errors in activation_errors(confusions)]
    return {name: [number_or_none(float(v)) for v in values] for name, values in zip(names, means, strict=True)}


def score_table(scores: Scores, names: Sequence[str], pixels: Sequence[int] = ()) -> str:
    """Return a table, one line a label: IoU, precision and recall in percent ('-' where undefined), then their means.

    Args:
        scores: of C + 1 labels.
        names: of the labels.
        pixels: of each label in the ground truth; with them there is a column of these, and the means without background.
    """
    columns = (scores.iou, scores.precision, scores.recall)
    rows = [(name, [float(column[i]) for column in columns]) for i, name in enumerate(names)]
    rows.append(("mean", [float(nan_mean(column)) for column in columns]))
    if pixels:
        rows.append(("without background", [float(nan_mean(column[BACKGROUND + 1 :])) for column in columns]))
    width = max(len(name) for name, _ in rows)
    lines = [f"{'class':<{width}}    IoU  precision  recall" + (f"{'pixels':>12}" if pixels else "")]
    counts = [f"{count:>12}" for count in pixels]
    for index, (name, (iou, precision, recall)) in enumerate(rows):
        line = f"{name:<{width}} {_percent(iou):>6} {_percent(precision):>10} {_percent(recall):>7}"
        lines.append(line + (counts[index] if index < len(counts) else ""))
    return "\n".join(lines)


def published_text(thresholds: Sequence[float], confusions: Sequence[NDArray[np.int64]]) -> str:
    """Return the published result layout: one JSON object a threshold, joined without separators, NaN included.

    The file as a whole is not valid JSON, and its field TN holds false negatives; kept so that tools made for it go on working.
    """
    return "".join(_published_object(t, c) for t, c in zip(thresholds, confusions, strict=True))


def _published_object(threshold: float, confusion: NDArray[np.int64]) -> str:
    scores, hits = score(confusion), np.diagonal(confusion)
    content = {
        "FP": (confusion.sum(axis=0) - hits).astype(float).tolist(),
        "IoU": dict(enumerate(scores.iou.tolist())),
        "Mean IoU": float(scores.mean_iou),
        "Mean_Precision": float(nan_mean(scores.precision)),
        "Mean_Recall": float(nan_mean(scores.recall)),
        "Precision": [f"{value:.2f}" for value in scores.precision.tolist()],
        "Recall": [f"{value:.2f}" for value in scores.recall.tolist()],
        "TN": (confusion.sum(axis=1) - hits).astype(float).tolist(),
        "TP": hits.astype(float).tolist(),
        "Threshold": threshold,
    }
    return json.dumps(content, indent=PUBLISHED_INDENT, sort_keys=True)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


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
        about: how the scores came about: weights, settings, counts; "Init", what training started from, is in the table too.
    """
    from utils.evaluation.plots import plot_confusion  # here: matplotlib takes a second to load, and CRF processes do not draw

    result = {
        **published_scores(confusion),
        "Class Names": list(names),
        "Confusion Matrix": confusion.tolist(),
        **about,
    }
    for written in (stem, f"{stem}_confusion"):
        remove_leftovers(folder, written)
    write_text_atomic(folder / f"{stem}.json", json.dumps(result, indent=INDENT, sort_keys=True, allow_nan=False) + "\n")
    init = f"init: {about['Init']}\n" if "Init" in about else ""
    write_text_atomic(folder / f"{stem}.txt", score_table(score(confusion), names) + "\n" + init)
    plot_confusion(folder / f"{stem}_confusion.png", names, confusion)
    return result


def summary(result: Mapping[str, Any]) -> str:
    """Return one line of the four means, in percent."""
    keys = ("Mean IoU", "Pixel Accuracy", "Mean Accuracy", "Frequency Weighted IoU")
    return ", ".join(f"{key} {100 * result[key]:.2f}" if result[key] is not None else f"{key} -" for key in keys)
