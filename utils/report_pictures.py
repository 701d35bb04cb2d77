"""Two small PNGs that show a run in a README: the scores of its stages by class, and a few images through the pipeline."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from utils.files import atomic_path
from utils.report_figures import LINES
from utils.report_images import ImageTask, Pictures, find_images, score_images, spread
from utils.report_run import Run
from utils.report_stages import Stage
from utils.report_tiles import TileWriter
from utils.visualize import Picture, contact_sheet

# Rows of the sheet, their height in pixels, and how many images they are chosen from.
IMAGES, CELL, SAMPLE, MOST_CLASSES = 5, 96, 40, 2
DPI, WIDTH, HEIGHT = 100, 8.2, 2.9
# A palette of so many colours keeps a README light.
COLOURS = 128


def write_pictures(run: Run, folder: Path) -> list[Path]:
    """Write `scores.png` and `images.png` of a run into a folder; a picture nothing is known for is left out."""
    written = []
    stages = [stage for stage in run.stages if stage.iou]
    if stages:
        written.append(_save(folder / "scores.png", _bars(stages, run.names)))
    sheet = _sheet(run)
    if sheet is not None:
        written.append(_save(folder / "images.png", sheet))
    return written


def _bars(stages: Sequence[Stage], names: Sequence[str]) -> Picture:
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    labels = ["mean", *names]
    width = 0.82 / len(stages)
    for index, stage in enumerate(stages):
        values = [stage.mean_iou, *(stage.iou.get(name) for name in names)]
        heights = [100 * (value or 0) for value in values]
        places = np.arange(len(labels)) + (index - (len(stages) - 1) / 2) * width
        title = f"{stage.title}: {heights[0]:.1f} % mIoU"
        axes.bar(places, heights, width * 0.92, color=LINES[index % len(LINES)], label=title)
    axes.set_xticks(np.arange(len(labels)), labels, rotation=0 if len(labels) < 10 else 90, fontsize=9)
    axes.set(ylabel="IoU, %", xlim=(-0.6, len(labels) - 0.4))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(*axes.get_legend_handles_labels(), loc="upper center", ncols=min(3, len(stages)), frameon=False, fontsize=8.5)
    figure.tight_layout(rect=(0, 0, 1, 0.99 - 0.075 * -(-len(stages) // 3)))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _sheet(run: Run) -> Picture | None:
    """Return a sheet of a few typical images of each split, the best first."""
    if run.places is None or not run.stages:
        return None
    pictures = Pictures(run.places, {stage.key: stage.maps for stage in run.stages})
    tasks = find_images(pictures, run.stages)
    writer = TileWriter(pictures, {stage.key: stage.short for stage in run.stages}, Path(), "")
    splits = list(dict.fromkeys(task.split for task in tasks))
    rows = [
        [("errors" if caption.startswith("errors of ") else caption, picture) for caption, picture in writer.drawings(task)]
        for position, split in enumerate(splits)
        for task in _typical(
            pictures, [t for t in tasks if t.split == split], IMAGES // len(splits) + (position < IMAGES % len(splits))
        )
    ]
    return contact_sheet(rows, cell_height=CELL) if rows else None


def _typical(pictures: Pictures, tasks: Sequence[ImageTask], count: int) -> list[ImageTask]:
    """Return `count` images from the lower quartile to the best of a sample, those with few classes where there are any."""
    few = [task for task in tasks if len(task.classes) <= MOST_CLASSES] or list(tasks)
    scored = score_images(pictures, spread(few, SAMPLE), workers=1)
    ranked = sorted(scored, key=lambda item: item.last_mean() or 0.0, reverse=True)
    places = np.linspace(0, 3 * (len(ranked) - 1) // 4, min(count, len(ranked))).astype(int)
    return [ranked[int(place)].task for place in places]


def _save(path: Path, picture: Picture) -> Path:
    image = Image.fromarray(picture).quantize(COLOURS, dither=Image.Dither.NONE)
    with atomic_path(path) as temporary:
        image.save(temporary, "PNG", optimize=True)
    return path
