"""What is made of a split (label maps, logits): written, counted against ground truth, and continued after a stop."""

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
from deeplab.logit_files import LOGIT_SUFFIXES
from utils.classes import class_index, palette
from utils.distributed import Dist, sum_over_ranks
from utils.files import remove_leftovers, write_text_atomic
from utils.images import image_size, read_label_map, write_png
from utils.metrics import confusion_matrix

ABOUT = "about.json"


def prepare(folder: Path, about: Mapping[str, Any], suffixes: Sequence[str]) -> None:
    """Make `folder` ready for files made as `about` says: those made in another way are removed first.

    So results of different weights or settings never lie side by side, and equal ones need not be made again.

    Args:
        folder: of predictions or logits.
        about: what they follow from, see `deeplab.evaluation.describe`.
        suffixes: of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    if read_about(folder) == about:
        return
    (folder / ABOUT).unlink(missing_ok=True)
    for old in [path for path in folder.iterdir() if path.suffix in suffixes]:
        old.unlink()
    write_text_atomic(folder / ABOUT, json.dumps(about, indent=2, sort_keys=True) + "\n")


def read_about(folder: Path) -> dict[str, Any] | None:
    """Return what the files of `folder` follow from; None where that is not known."""
    try:
        content = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def split_finished(items: Sequence[Item], folder: Path | None, logits: Path | None) -> tuple[list[Item], list[Item]]:
    """Return (finished items, the others): with a prediction in `folder` and, unless that is None, their `logits`."""
    finished = _stems(folder, [".png"])
    if logits is not None:
        finished &= _stems(logits, LOGIT_SUFFIXES)
    return [i for i in items if i.image_id in finished], [i for i in items if i.image_id not in finished]


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


def _stems(folder: Path | None, suffixes: Sequence[str]) -> set[str]:
    if folder is None or not folder.is_dir():
        return set()
    return {path.stem for path in folder.iterdir() if path.suffix in suffixes}


def _confusion(item: Item, labels: NDArray[np.uint8], n_classes: int) -> NDArray[np.int64]:
    if item.labels is None:
        return np.zeros((n_classes, n_classes), np.int64)
    height, width = labels.shape
    return confusion_matrix(read_labels(item, n_classes, (width, height)), labels, class_index(n_classes))
