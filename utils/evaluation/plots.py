"""Plots of an evaluation, as PNG files or on the axes of a report (no display needed; nothing global is touched)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from utils.evaluation.metrics import row_shares
from utils.files import atomic_path

DPI = 110
ACCENT = "#c8553d"
# Read on white and on near-black alike, and told apart without colour vision by their brightness and dashes.
LINES = ("#2f7fd0", "#e07b39", "#3aa076", "#b86bc4", "#c9a227", "#8a8f98", "#d1495b", "#7a5c3e")
DASHES = ("-", "--", "-.", ":")
# Inches: a label's bars, a confusion cell with room for its number, and one without.
BARS_WIDTH, NUMBERED_CELL, PLAIN_CELL = 0.34, 0.44, 0.2
# Above so many labels numbers in the cells would be too small to read at a page's size, and names do not fit side by side.
MOST_NUMBERED, MOST_UPRIGHT = 31, 9
# Cells below half a percent would read "0".
LEAST_SHOWN, WHITE_ABOVE = 0.005, 0.5

# A figure's text and its size in points.
INK, SIZE = "black", 9.0


def draw_lines(axes: Axes, curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> None:
    """Draw curves, legend name -> (x, y), told apart by colour and dashes."""
    for index, (title, (x, y)) in enumerate(curves.items()):
        colour, dashes = LINES[index % len(LINES)], DASHES[index % len(DASHES)]
        axes.plot(x, y, color=colour, linestyle=dashes, linewidth=1.6, label=title)


def draw_thresholds(axes: Axes, curves: Mapping[str, Sequence[float] | NDArray[np.float64]]) -> None:
    """Draw mean IoU, legend name -> (n,) in [0, 1] at thresholds k / (n - 1), the best value of each marked."""
    lines = {}
    for index, (title, values) in enumerate(curves.items()):
        percent, thresholds = 100 * np.asarray(values), np.linspace(0, 1, len(values))
        best = int(percent.argmax())
        lines[f"{title}: {percent[best]:.1f} % at {thresholds[best]:.2f}"] = thresholds, percent
        axes.plot(thresholds[best], percent[best], "o", color=LINES[index % len(LINES)], markersize=5)
    draw_lines(axes, lines)
    axes.set(xlabel="background threshold", ylabel="mean IoU, %", ylim=(0, None))


def draw_class_iou(axes: Axes, names: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> None:
    """Draw the IoU of each label as bars side by side, one of each series; of a single series with its number.

    Args:
        axes: to draw on.
        names: of the bars, C + 1 labels or more.
        series: legend name -> values in [0, 1] (None or NaN: absent), one a name.
    """
    width = 0.82 / len(series)
    upright = len(names) <= MOST_UPRIGHT
    for index, (title, values) in enumerate(series.items()):
        heights = np.nan_to_num(100 * np.array([np.nan if value is None else value for value in values], float))
        middles = np.arange(len(names)) + (index - (len(series) - 1) / 2) * width
        bars = axes.bar(middles, heights, width * 0.92, color=LINES[index % len(LINES)], label=title)
        if len(series) == 1:
            texts = [f"{height:.1f}" if height else "–" for height in heights]
            axes.bar_label(bars, texts, padding=2, fontsize=8, rotation=0 if upright else 90)
    axes.set_xticks(np.arange(len(names)), names, rotation=0 if upright else 90, fontsize=SIZE)
    axes.set(ylabel="IoU, %", xlim=(-0.6, len(names) - 0.4))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def draw_confusion(
    axes: Axes, names: Sequence[str], confusion: NDArray[np.int64], *, colours: Any, ink: str = INK, size: float = SIZE
) -> AxesImage:
    """Draw a confusion matrix, each row (ground truth) as shares of its pixels; rows without pixels stay empty.

    Args:
        axes: to draw on.
        names: C + 1 label names, background first.
        confusion: (C + 1, C + 1) pixel counts, row = ground truth, column = prediction.
        colours: a colour map of the square root of shares.
        ink: colour of numbers.
        size: of names, points.
    """
    shares = row_shares(confusion)
    # The square root lifts the small confusions, which are what one looks for, out of the background.
    picture = axes.imshow(np.sqrt(shares), cmap=colours, vmin=0, vmax=1)
    positions = np.arange(len(names))
    axes.set_xticks(positions, names, rotation=90, fontsize=size)
    axes.set_yticks(positions, names, fontsize=size)
    axes.set(xlabel="predicted", ylabel="ground truth")
    for row, column in np.argwhere(np.nan_to_num(shares) >= LEAST_SHOWN) if len(names) <= MOST_NUMBERED else ():
        share = shares[row, column]
        colour = "white" if share > WHITE_ABOVE else ink
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=size - 0.5, color=colour)
    return picture


def plot_threshold_curve(path: Path, mean_iou: NDArray[np.float64], listed: Sequence[float]) -> None:
    """Write a picture of mean IoU over the background threshold, its best value and the listed thresholds.

    Args:
        path: PNG to write.
        mean_iou: (256,) in [0, 1], at thresholds k / 255.
        listed: thresholds in [0, 1] to mark.
    """
    figure, axes = _figure(7.5, 4.2)
    draw_thresholds(axes, {"best": mean_iou})
    points = 100 * np.interp(listed, np.linspace(0, 1, len(mean_iou)), mean_iou)
    axes.plot(listed, points, "o", color=LINES[0], markerfacecolor="white", label="listed")
    axes.set(xlim=(0, 1), title="CAM mean IoU over the background threshold")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def plot_class_iou(path: Path, names: Sequence[str], iou: NDArray[np.float64], threshold: float | None = None) -> None:
    """Write a picture with a bar per label, its IoU, and a line at their mean.

    Args:
        path: PNG to write.
        names: C + 1 label names, background first.
        iou: (C + 1,) in [0, 1], NaN for absent labels.
        threshold: background threshold of these values, for the title; None: there is none.
    """
    figure, axes = _figure(max(7.5, 1.4 + BARS_WIDTH * len(names)), 4.2)
    mean = 100 * float(np.nanmean(iou))
    draw_class_iou(axes, names, {"IoU": iou.tolist()})
    axes.axhline(mean, color=ACCENT, linewidth=1.2, linestyle="--", zorder=0)
    where = "" if threshold is None else f" at background threshold {threshold:.3f}"
    axes.set(ylim=(0, 112), title=f"IoU per class{where} (dashed: mean {mean:.2f})")
    _save(figure, path)


def plot_confusion(path: Path, names: Sequence[str], confusion: NDArray[np.int64], threshold: float | None = None) -> None:
    """Write a picture of a confusion matrix, see `draw_confusion`.

    Args:
        path: PNG to write.
        names: C + 1 label names, background first.
        confusion: (C + 1, C + 1) pixel counts, row = ground truth, column = prediction.
        threshold: background threshold of these counts, for the title; None: there is none.
    """
    side = 2.6 + (NUMBERED_CELL if len(names) <= MOST_NUMBERED else PLAIN_CELL) * len(names)
    figure, axes = _figure(side + 0.8, side)
    picture = draw_confusion(axes, names, confusion, colours="Blues")
    edges = np.arange(len(names)) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="#e6e6e6", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    where = "" if threshold is None else f", at background threshold {threshold:.3f}"
    axes.set_title(f"Share of each class's pixels, %{where}")
    bar = figure.colorbar(picture, ax=axes, fraction=0.04, pad=0.015, ticks=np.sqrt([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1]))
    bar.ax.set_yticklabels(["0", "1", "5", "10", "25", "50", "75", "100 %"], fontsize=SIZE)
    _save(figure, path)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight")
