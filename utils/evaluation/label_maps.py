"""Folders of label maps, of any program, counted against ground truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.evaluation_schema import ScoreConfig
from utils.data.classes import IGNORE, label_count
from utils.data.folder import DataFolder, first_names, missing_files
from utils.data.images import read_label_map
from utils.data.lists import file_of
from utils.errors import UserError
from utils.evaluation.metrics import confusion_matrix
from utils.runtime.parallel import map_progress

CHUNK = 16
# An image's id, ground truth and label map.
Pair = tuple[str, Path, Path]
# (a label map's file, classes) -> (H, W) values; what is no PNG holds scores, which become labels in the reader.
Reader = Callable[[Path, int], NDArray[np.uint8]]


@dataclass
class MapCounts:
    """What was counted.

    Attributes:
        confusion: (C + 1, C + 1) pixels, rows ground truth.
        pixels: with ground truth; those of them whose label map says 255 are not in `confusion`.
        margins: id -> (C + 1,) TP - FN - FP of each label, pixels.
        present: id -> (C + 1,) whether ground truth or label map has the label.
        unlike: what there is to tell about pairs of different size, which are not counted.
    """

    confusion: NDArray[np.int64]
    pixels: int = 0
    margins: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    present: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    unlike: list[str] = field(default_factory=list)

    def add(self, other: "MapCounts") -> None:
        """Add the counts of other images."""
        self.confusion += other.confusion
        self.pixels += other.pixels
        self.margins |= other.margins
        self.present |= other.present
        self.unlike += other.unlike


def find_pairs(data: DataFolder, ids: Sequence[str], settings: ScoreConfig) -> list[Pair]:
    """Return the images that have both files.

    Raises:
        UserError: when one has not, unless `score.allow_missing`, with their number and the first names; when none has; or for
            a folder that cannot be read.
    """
    suffix = _suffix(Path(settings.label_dir))
    pairs = [(i, data.truth(i), file_of(Path(settings.label_dir), i, suffix)) for i in ids]
    absent: set[Path] = set()
    for what, key, files in (
        ("label map", "score.label_dir", [pair[2] for pair in pairs]),
        ("ground truth", "data.label_dir", [pair[1] for pair in pairs]),
    ):
        missing = missing_files(files, what, key)
        if missing and not settings.allow_missing:
            raise UserError(
                f"{len(missing)} of {len(files)} {what} files are missing in {missing[0].parent}: {first_names(missing)}; "
                f"check {key} and data.eval_list, or score the others with score.allow_missing=true"
            )
        absent.update(missing)
    found = [pair for pair in pairs if not absent.intersection(pair[1:])]
    if not found:
        raise UserError("no image of data.eval_list has both files; check score.label_dir and data.label_dir")
    return found


def _suffix(folder: Path) -> str:
    """Return what label maps of a folder end in: .png or, where it has none of these, .npy or .npz, see `Reader`."""
    found = {path.suffix for path in folder.iterdir()} if folder.is_dir() else set()
    return next((suffix for suffix in (".png", ".npy", ".npz") if suffix in found), ".png")


def count_pairs(pairs: Sequence[Pair], num_classes: int, settings: ScoreConfig, read: Reader = read_label_map) -> MapCounts:
    """Count label maps, read by `read`, against ground truth on `score.workers` processes.

    Raises:
        UserError: naming files that do not fit.
    """
    total = _nothing(num_classes)
    chunks = [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]
    work = partial(count_chunk, num_classes, settings.grid, read)
    for counts in map_progress(work, chunks, workers=settings.workers, what=f"score ({CHUNK} images each)"):
        total.add(counts)
    if total.unlike:
        raise UserError(
            f"{len(total.unlike)} of {len(pairs)} label maps are of another size than their ground truth: "
            f"{', '.join(total.unlike[:3])}{', ...' if total.unlike[3:] else ''}; make them anew"
        )
    return total


def count_chunk(num_classes: int, grid: tuple[int, int] | None, read: Reader, pairs: Sequence[Pair]) -> MapCounts:
    """Count a few images in this process."""
    total = _nothing(num_classes)
    for image_id, truth_file, map_file in pairs:
        truth, labels = read_label_map(truth_file, num_classes), read(map_file, num_classes)
        if truth.shape != labels.shape:
            sizes = ("x".join(map(str, shape[::-1])) for shape in (labels.shape, truth.shape))
            total.unlike.append(f"{map_file.name} ({' for '.join(sizes)})")
            continue
        confusion = confusion_matrix(truth, labels if grid is None else through_grid(labels, grid), num_classes)
        hits, either = np.diagonal(confusion), confusion.sum(axis=0) + confusion.sum(axis=1)
        total.confusion += confusion
        total.pixels += int(np.count_nonzero(truth != IGNORE))
        total.margins[image_id], total.present[image_id] = 3 * hits - either, either > 0
    return total


def through_grid(labels: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.uint8]:
    """Return what a grid of cells can hold of a label map: each cell's most frequent label (of equals the lowest), enlarged.

    No other map of one label a cell has more pixels right. 255 has no vote; a cell stays 255 where it holds nothing else.

    Args:
        labels: (H, W) label map.
        grid: (h, w) cells.
    """
    row, column = (np.arange(side) * cells // side for side, cells in zip(labels.shape, grid, strict=True))
    cell = row[:, None] * grid[1] + column
    valid = labels != IGNORE
    values = int(labels[valid].max(initial=0)) + 1
    votes = np.bincount(cell[valid] * values + labels[valid], minlength=grid[0] * grid[1] * values).reshape(-1, values)
    return np.where(votes.any(axis=1), votes.argmax(axis=1), IGNORE).astype(np.uint8)[cell]


def score_log(counts: MapCounts, names: Sequence[str]) -> str:
    """Return '<label><TAB><id><TAB><TP - FN - FP>' lines: for each label the images that have it, the worst first."""
    lines = []
    for value, name in enumerate(names):
        having = [image_id for image_id, present in counts.present.items() if present[value]]
        ranked = sorted(having, key=lambda image_id: (counts.margins[image_id][value], image_id))
        lines += [f"{name}\t{image_id}\t{counts.margins[image_id][value]}\n" for image_id in ranked]
    return "".join(lines)


def _nothing(num_classes: int) -> MapCounts:
    return MapCounts(np.zeros((label_count(num_classes),) * 2, np.int64))
