"""Plots of an evaluation as PNG files (no display needed; nothing global is touched)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from utils.evaluation.metrics import row_shares
from utils.files import atomic_path

DPI = 110
COLOUR, ACCENT, MUTED = "#2f6d9f", "#c8553d", "#8a8a8a"
# Inches: a bar's line, a confusion cell with room for its number, and one without.
BAR_HEIGHT, NUMBERED_CELL, PLAIN_CELL = 0.24, 0.44, 0.2
# Above so many labels numbers in the cells would be too small to read at a page's size.
MOST_NUMBERED = 31
# Cells below half a percent would read "0".
LEAST_SHOWN = 0.005


def plot_threshold_curve(path: Path, mean_iou: NDArray[np.float64], listed: Sequence[float]) -> None:
    """Draw mean IoU over the background threshold, its best value and the listed thresholds.

    Args:
        path: PNG to write.
        mean_iou: (256,) in [0, 1], at thresholds k / 255.
        listed: thresholds in [0, 1] to mark.
    """
    figure, axes = _figure(7.5, 4.2)
    thresholds = np.arange(len(mean_iou)) / (len(mean_iou) - 1)
    best = int(mean_iou.argmax())
    axes.plot(thresholds, 100 * mean_iou, color=COLOUR, linewidth=2)
    axes.plot(listed, 100 * np.interp(listed, thresholds, mean_iou), "o", color=COLOUR, markerfacecolor="white", label="listed")
    label = f"best: {100 * mean_iou[best]:.2f} at {thresholds[best]:.3f}"
    axes.plot(thresholds[best], 100 * mean_iou[best], "*", color=ACCENT, markersize=14, label=label)
    axes.set(xlabel="background threshold", ylabel="mean IoU, %", xlim=(0, 1), ylim=(0, None))
    axes.set_title("CAM mean IoU over the background threshold")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def plot_class_iou(path: Path, names: Sequence[str], iou: NDArray[np.float64], threshold: float) -> None:
    """Draw a bar per label with its IoU, and a line at their mean.

    Args:
        path: PNG to write.
        names: C + 1 label names, background first.
        iou: (C + 1,) in [0, 1], NaN for absent labels.
        threshold: background threshold of these values, for the title.
    """
    figure, axes = _figure(7.5, 1.4 + BAR_HEIGHT * len(names))
    values = 100 * iou
    rows = np.arange(len(names))
    mean = float(np.nanmean(values))
    axes.barh(rows, np.nan_to_num(values), height=0.72, color=[MUTED, *[COLOUR] * (len(names) - 1)])
    for row, value in enumerate(values.tolist()):
        text = "absent" if np.isnan(value) else f"{value:.1f}"
        colour = MUTED if np.isnan(value) else "black"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(np.nan_to_num(value) + 0.8, row, text, va="center", fontsize=8, color=colour, bbox=box)
    axes.axvline(mean, color=ACCENT, linewidth=1.2, linestyle="--")
    axes.set_yticks(rows, names, fontsize=9)
    axes.set(xlabel="IoU, %", xlim=(0, 105), ylim=(len(names) - 0.4, -0.6))
    axes.set_title(f"IoU per class at background threshold {threshold:.3f} (dashed: mean {mean:.2f})")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    _save(figure, path)


def plot_confusion(path: Path, names: Sequence[str], confusion: NDArray[np.int64], threshold: float | None = None) -> None:
    """Draw the confusion matrix, each row (ground truth) as shares of its pixels; rows without pixels stay empty.

    Args:
        path: PNG to write.
        names: C + 1 label names, background first.
        confusion: (C + 1, C + 1) pixel counts, row = ground truth, column = prediction.
        threshold: background threshold of these counts, for the title; None: there is none.
    """
    numbered = len(names) <= MOST_NUMBERED
    side = 2.6 + (NUMBERED_CELL if numbered else PLAIN_CELL) * len(names)
    figure, axes = _figure(side + 0.8, side)
    shares = row_shares(confusion)
    # The square root lifts the small confusions, which are what one looks for, out of the white.
    picture = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    places = np.arange(len(names))
    size = 9 if numbered else 8
    axes.set_xticks(places, names, rotation=90, fontsize=size)
    axes.set_yticks(places, names, fontsize=size)
    axes.set_xticks(places - 0.5, minor=True)
    axes.set_yticks(places - 0.5, minor=True)
    axes.grid(which="minor", color="#e6e6e6", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.set(xlabel="predicted", ylabel="ground truth")
    where = "" if threshold is None else f", at background threshold {threshold:.3f}"
    axes.set_title(f"Share of each class's pixels, %{where}")
    if numbered:
        _write_numbers(axes, shares)
    bar = figure.colorbar(picture, ax=axes, fraction=0.04, pad=0.015, ticks=np.sqrt([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1]))
    bar.ax.set_yticklabels(["0", "1", "5", "10", "25", "50", "75", "100 %"], fontsize=size)
    _save(figure, path)


def _write_numbers(axes: Axes, shares: NDArray[np.float64]) -> None:
    for row, column in np.argwhere(np.nan_to_num(shares) >= LEAST_SHOWN):
        share = shares[row, column]
        colour = "white" if np.sqrt(share) > 0.6 else "black"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=colour)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight")
