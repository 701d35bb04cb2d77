"""What is made of a split (label maps, logits): written, counted against ground truth, and continued after a stop."""

import logging
import threading
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.deeplab_schema import PLAIN, DeepLabConfig
from deeplab.dataset import read_labels
from utils.data.classes import label_count, palette
from utils.data.images import image_size, is_whole_png, read_label_map, write_png
from utils.data.items import Item
from utils.errors import UserError
from utils.evaluation.metrics import confusion_matrix
from utils.files import atomic_path, only_file, remove_leftovers
from utils.runtime.processes import Dist, sum_over_ranks
from utils.runtime.provenance import NOTE, differing, read_source, write_source

LOGIT_SUFFIXES = (".npy", ".npz")
# What the methods are called in reports.
TITLES = {PLAIN: "DeepLab", "cdl_b": "CDL-b", "cdl_e": "CDL-e"}
KEY = "logits"  # of the archive that `write_logits` makes


def write_logits(folder: Path, image_id: str, logits: Tensor, kind: str) -> None:
    """Write (classes, h, w) logits as <id>.npy (kind npy) or <id>.npz (fp16). Raises UserError when it cannot."""
    values = logits.float().cpu().numpy()
    path = folder / f"{image_id}.{'npy' if kind == 'npy' else 'npz'}"
    with atomic_path(path, sync=False) as temporary:
        if kind == "npy":
            np.save(temporary, values)
        else:
            np.savez_compressed(temporary, logits=values.astype(np.float16))


def find_logits(folder: Path, image_id: str) -> Path | None:
    """Return the file of an image's logits, of either kind, or None."""
    for suffix in LOGIT_SUFFIXES:
        path = folder / f"{image_id}{suffix}"
        if path.exists():
            return path
    return None


def read_logits(path: Path, num_classes: int) -> Tensor:
    """Return (num_classes + 1, h, w) float32 logits. Raises UserError for a damaged file, or another number of classes."""
    try:
        loaded = np.load(only_file(path), allow_pickle=False)
        values = loaded if isinstance(loaded, np.ndarray) else loaded[KEY]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"logits file {path} cannot be read ({error}); delete it and run `test` again") from error
    count = label_count(num_classes)
    if values.ndim != 3 or values.shape[0] != count or values.dtype.kind != "f" or not np.isfinite(values).all():
        raise UserError(
            f"logits file {path} holds {values.dtype} of shape {values.shape}, expected finite floats of shape "
            f"({count}, h, w); delete it and run `test` again"
        )
    return torch.from_numpy(values.astype(np.float32))


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
    if (found := read_source(folder)) is not None and not differing(found, about):
        return
    (folder / NOTE).unlink(missing_ok=True)
    for old in [path for path in folder.iterdir() if path.suffix in suffixes]:
        old.unlink()
    write_source(folder, about)


def split_finished(items: Sequence[Item], folder: Path | None, logits: Path | None) -> tuple[list[Item], list[Item]]:
    """Return (finished items, the others): with a whole prediction in `folder` and, unless that is None, their `logits`."""
    finished = {name for name in _stems(folder, [".png"]) if folder is not None and is_whole_png(folder / f"{name}.png")}
    if logits is not None:
        finished &= _stems(logits, LOGIT_SUFFIXES)
    return [i for i in items if i.image_id in finished], [i for i in items if i.image_id not in finished]


def settle(item: Item, labels: NDArray[np.uint8], *, num_classes: int, folder: Path | None) -> NDArray[np.int64]:
    """Write a predicted label map (H, W) as a palette PNG, and return its confusion matrix (zeros without ground truth).

    Args:
        item: the image.
        labels: values 0 to num_classes.
        num_classes: foreground classes.
        folder: to write to; None writes nothing.

    Raises:
        UserError: for a ground-truth file that is missing, damaged, of another size or with other values.
    """
    confusion = _confusion(item, labels, num_classes)  # first: a prediction on disk then counts as finished
    if folder is not None:
        write_png(folder / f"{item.image_id}.png", labels, palette())
    return confusion


def recount(item: Item, *, num_classes: int, folder: Path) -> NDArray[np.int64]:
    """Return the confusion matrix of a prediction that is on disk."""
    path = folder / f"{item.image_id}.png"
    return _confusion(item, read_label_map(path, num_classes, image_size(item.image), key="dataset.n_classes"), num_classes)


class Confusion:
    """A sum of confusion matrices that several threads may add to."""

    def __init__(self, num_classes: int) -> None:
        self.counts = np.zeros((label_count(num_classes),) * 2, np.int64)
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


def _confusion(item: Item, labels: NDArray[np.uint8], num_classes: int) -> NDArray[np.int64]:
    if item.labels is None:
        return np.zeros((label_count(num_classes),) * 2, np.int64)
    height, width = labels.shape
    return confusion_matrix(read_labels(item, num_classes, (width, height)), labels, num_classes)


FINAL = "checkpoint_final.pth"
PUBLISHED = "data"  # the published OUTPUT_DIR


def models_dir(cfg: DeepLabConfig) -> Path:
    """Return the folder of checkpoint_<iteration>.pth, checkpoint_final.pth and last.pth (resuming)."""
    return _output(cfg, "models", cfg.dataset.split.train)


def final_weights(cfg: DeepLabConfig) -> Path:
    """Return the file of the finished weights: this experiment's or, where only that is there, below the published data/."""
    elsewhere = replace(cfg, exp=replace(cfg.exp, output_dir=PUBLISHED))
    own, published = models_dir(cfg) / FINAL, models_dir(elsewhere) / FINAL
    if own.is_file() or not published.is_file():
        return own
    logging.getLogger("l2g").warning("%s is not there; the weights are %s", own, published)
    return published


def logs_dir(cfg: DeepLabConfig) -> Path:
    """Return the folder of TensorBoard files, log.txt and the configuration."""
    return Path(cfg.exp.output_dir, "logs", cfg.exp.id)


def logits_dir(cfg: DeepLabConfig) -> Path:
    """Return the folder of saved logits <id>.npy or <id>.npz."""
    return _output(cfg, "features", tested_split(cfg)) / "logit"


def scores_dir(cfg: DeepLabConfig) -> Path:
    """Return the folder of scores.json, scores_crf.json, tables and plots."""
    return _output(cfg, "scores", tested_split(cfg))


def predictions_dir(cfg: DeepLabConfig, *, crf: bool) -> Path:
    """Return the folder of predicted label maps <id>.png."""
    if cfg.test.out_dir:
        return Path(cfg.test.out_dir)
    return _output(cfg, "predictions", tested_split(cfg) + ("_crf" if crf else ""))


def refreshed_dir(cfg: DeepLabConfig) -> Path:
    """Return the folder of training labels that experts corrected."""
    return _output(cfg, "predictions", f"{cfg.dataset.split.train}_refreshed")


def archive_path(cfg: DeepLabConfig, *, crf: bool) -> Path:
    """Return the file the VOC test server takes."""
    return _output(cfg, "predictions", "results" + ("_crf" if crf else "") + ".tar.gz")


def tested_split(cfg: DeepLabConfig) -> str:
    """Return the name of the split test and crf work on, with `test.name` behind it."""
    split = cfg.dataset.split
    return "_".join(filter(None, (str(split.test) if cfg.test.unlabelled else split.val, cfg.test.name)))


def experiment(cfg: DeepLabConfig) -> str:
    """Return what tells apart the experiments in one output folder, as a relative path: <exp.id>/<model>."""
    return f"{cfg.exp.id}/{cfg.model.name.lower()}"


def _output(cfg: DeepLabConfig, kind: str, last: str) -> Path:
    return Path(cfg.exp.output_dir, kind, experiment(cfg), last)
