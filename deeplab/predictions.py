"""Predicted label maps of a split: written, counted against ground truth, and continued where a stopped run left off."""

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deeplab.dataset import read_labels
from deeplab.lists import Item
from utils.classes import class_index, palette
from utils.distributed import Dist, sum_over_ranks
from utils.files import remove_leftovers, write_text_atomic
from utils.images import image_size, read_label_map, write_png
from utils.metrics import confusion_matrix

ABOUT = "about.json"


def prepare(folder: Path, about: Mapping[str, Any]) -> None:
    """Make `folder` ready for predictions made as `about` says: those made in another way are removed first.

    So predictions of different weights or settings never lie side by side, and equal ones need not be made again.
    """
    path, text = folder / ABOUT, json.dumps(about, indent=2, sort_keys=True) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        remove_leftovers(folder)
        return
    path.unlink(missing_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    write_text_atomic(path, text)


def split_finished(folder: Path | None, items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Return (items with a prediction in `folder`, the others)."""
    if folder is None or not folder.is_dir():
        return [], list(items)
    names = {path.name for path in folder.glob("*.png")}
    done = [item for item in items if f"{item.image_id}.png" in names]
    return done, [item for item in items if f"{item.image_id}.png" not in names]


def settle(item: Item, labels: NDArray[np.uint8], *, n_classes: int, folder: Path | None) -> NDArray[np.int64]:
    """Write a predicted label map (H, W) as a palette PNG, and return its confusion matrix (zeros without ground truth).

    Args:
        item: the image.
        labels: values 0 to n_classes - 1.
        n_classes: background counted.
        folder: to write to; None writes nothing.

    Raises:
        UserError: for a ground-truth file that is missing, damaged, of another size or with other values.
    """
    confusion = _confusion(item, labels, n_classes)  # first: a prediction on disk then counts as finished
    if folder is not None:
        write_png(folder / f"{item.image_id}.png", labels, palette())
    return confusion


def recount(item: Item, *, n_classes: int, folder: Path) -> NDArray[np.int64]:
    """Return the confusion matrix of a prediction that is on disk."""
    path = folder / f"{item.image_id}.png"
    return _confusion(item, read_label_map(path, class_index(n_classes), image_size(item.image)), n_classes)


class Confusion:
    """A sum of confusion matrices that several threads may add to."""

    def __init__(self, n_classes: int) -> None:
        self.counts = np.zeros((n_classes, n_classes), np.int64)
        self._lock = threading.Lock()

    def add(self, counts: NDArray[np.int64]) -> None:
        """Add the matrix of one image."""
        with self._lock:
            self.counts += counts

    def total(self, place: Dist) -> NDArray[np.int64]:
        """Return the sum over all processes; every process must call it."""
        counts = sum_over_ranks(torch.from_numpy(self.counts.copy()).to(place.device), place.world)
        return np.asarray(counts.cpu().numpy())


def _confusion(item: Item, labels: NDArray[np.uint8], n_classes: int) -> NDArray[np.int64]:
    if item.labels is None:
        return np.zeros((n_classes, n_classes), np.int64)
    height, width = labels.shape
    return confusion_matrix(read_labels(item, n_classes, (width, height)), labels, class_index(n_classes))
