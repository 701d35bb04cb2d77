"""Figures of a report as SVG text to stand in the page itself: their colours follow the page's light or dark scheme."""

import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from utils.evaluation.plots import MOST_NUMBERED, draw_confusion, draw_lines, draw_thresholds

# More points than a figure's width can show are averaged.
MOST_POINTS = 400
# Everything that is not a scalar is read past.
_SIZES = {"scalars": 0, "images": 1, "tensors": 1, "histograms": 1, "compressedHistograms": 1, "audio": 1}
_RATES = ("lr", "lr/")
_SHARE = "share/"
# Speed, memory, and final scores written for the HPARAMS tab: no training curves.
_LEFT_OUT = ("images_per_second", "memory_gib", "loader_wait", "gpu/", "score/")

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass
class Curves:
    """Losses, learning rates and shares in [0, 1] of one training: name -> (steps, values)."""

    title: str
    losses: dict[str, Curve] = field(default_factory=dict)
    rates: dict[str, Curve] = field(default_factory=dict)
    shares: dict[str, Curve] = field(default_factory=dict)


def read_curves(folder: Path, title: str) -> Curves:
    """Read the scalars of the event files in one folder; a resumed training's overtaken steps are left out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # resuming is no reason for a warning
    accumulator = EventAccumulator(str(folder), _SIZES)
    accumulator.Reload()
    curves = Curves(title)
    for tag in accumulator.Tags()["scalars"]:
        name = tag.removeprefix("train/")
        if any(name.startswith(prefix) for prefix in _LEFT_OUT):
            continue
        events = accumulator.Scalars(tag)
        curve = thin(np.array([e.step for e in events], float), np.array([e.value for e in events], float))
        kind = curves.rates if name.startswith(_RATES) else curves.shares if name.startswith(_SHARE) else curves.losses
        kind[name.removeprefix("loss/").removeprefix(_SHARE)] = curve
    return curves


def thin(steps: NDArray[np.float64], values: NDArray[np.float64]) -> Curve:
    """Average neighbouring points until at most MOST_POINTS are left."""
    portions = np.array_split(np.arange(len(steps)), min(len(steps), MOST_POINTS))
    return np.array([steps[p].mean() for p in portions]), np.array([values[p].mean() for p in portions])


# Drawn in these, then replaced by the page's variables.
INK, MUTED, GRID = "#010203", "#040506", "#070809"
VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)"}
# Inches: narrow, so that text keeps its size on a phone.
WIDTH, HEIGHT = 5.2, 3.0
CELL, FRAME = 0.3, 1.7
# Points: names of a confusion matrix, and of one without room for numbers.
NUMBERED_SIZE, PLAIN_SIZE = 7.5, 6.0
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
}
# Transparent to strong: the page's own background is the colour of nothing.
_SHARES = LinearSegmentedColormap.from_list("shares", [(0.184, 0.498, 0.816, 0.0), (0.184, 0.498, 0.816, 1.0)])


def curves_figure(name: str, curves: Mapping[str, Curve], label: str, *, log: bool = False) -> Markup:
    """Draw curves over training steps.

    Args:
        name: unique on the page.
        curves: legend name -> (steps, values).
        label: of the vertical axis.
        log: logarithmic vertical axis (where all values are positive).
    """
    with _figure(name, WIDTH, HEIGHT) as (figure, axes):
        draw_lines(axes, curves)
        if log and all((values > 0).all() for _, values in curves.values()):
            axes.set_yscale("log")
        axes.set(xlabel="step", ylabel=label)
        _legend(axes, len(curves))
        return _svg(figure, name, f"{label} over training steps: {', '.join(curves)}")


def threshold_figure(name: str, curves: Mapping[str, Sequence[float]]) -> Markup:
    """Draw mean IoU over the background threshold; legend name -> values in [0, 1] at thresholds k / (n - 1)."""
    with _figure(name, WIDTH, HEIGHT) as (figure, axes):
        draw_thresholds(axes, curves)
        _legend(axes, 2)
        return _svg(figure, name, "mean IoU over the background threshold")


def confusion_figure(name: str, names: Sequence[str], confusion: NDArray[np.int64]) -> Markup:
    """Draw a confusion matrix (C + 1, C + 1), rows ground truth, as shares of each row."""
    numbered = len(names) <= MOST_NUMBERED
    side = FRAME + (CELL if numbered else CELL / 2) * len(names)
    with _figure(name, side, side, framed=True) as (figure, axes):
        draw_confusion(axes, names, confusion, colours=_SHARES, ink=INK, size=NUMBERED_SIZE if numbered else PLAIN_SIZE)
        axes.tick_params(length=0)
        return _svg(figure, name, "confusion matrix, per cent of each class's pixels")


def _legend(axes: Axes, lines: int) -> None:
    axes.grid(True)
    axes.set_axisbelow(True)
    if lines > 1:
        axes.legend(frameon=False, fontsize=7.5)


@contextmanager
def _figure(name: str, width: float, height: float, *, framed: bool = False) -> Iterator[tuple[Figure, Axes]]:
    """Yield a transparent figure in the page's style; the block must make its SVG."""
    with rc_context({**_STYLE, "svg.hashsalt": name, "axes.spines.top": framed, "axes.spines.right": framed}):
        figure = Figure(figsize=(width, height))
        figure.patch.set_alpha(0)
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        yield figure, axes


def _svg(figure: Figure, name: str, description: str) -> Markup:
    """Return the figure as an <svg> element that scales with the page, its ids unique, its colours the page's."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.04, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="([\d.]+)pt" height="[\d.]+pt"', r'\1 style="width:calc(\2px*1.35)"', text, count=1)
    text = re.sub(r"\bid=\"", f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    # matplotlib names its own fonts; the page's is right.
    text = re.sub(r"font(?:-size)?: ([\d.]+px)(?:; font-family:)? '[^;\"]*", r"font-size: \1; font-family: inherit", text)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(description)}" ', 1))
