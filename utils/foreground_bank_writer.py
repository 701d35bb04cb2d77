"""Cut the good objects of a set of images out and write them into a bank, on many processes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.paste_schema import BankConfig
from utils.cam_files import LabelledId, cam_path, chunked
from utils.foreground_bank import OPAQUE, BankEntry
from utils.foreground_select import Selected, select_objects
from utils.images import read_cam, read_image, read_label_map, read_saliency, write_png
from utils.parallel import map_progress
from utils.pseudo_labels import fuse_threshold

CHUNK = 16


@dataclass(frozen=True)
class BankSource:
    """Where images, saliency (None: there is none) and class maps or labels are, and what makes a good object."""

    image_dir: Path
    saliency_dir: Path | None
    num_classes: int
    rule: BankConfig
    salient: int


def write_objects(source: BankSource, tasks: Sequence[LabelledId]) -> tuple[list[BankEntry], Counter[str]]:
    """Write the objects of all images; return their entries, in the images' order, and how often each reason excluded one.

    Raises:
        UserError: naming a file that is missing, damaged or of the wrong size.
    """
    entries: list[BankEntry] = []
    reasons: Counter[str] = Counter()
    what = f"cut out ({CHUNK} images each)"
    for found, excluded in map_progress(
        partial(_write_chunk, source), chunked(tasks, CHUNK), workers=source.rule.workers, what=what
    ):
        entries += found
        reasons.update(excluded)
    return entries, reasons


def best_of_each_class(entries: Sequence[BankEntry], most: int) -> list[BankEntry]:
    """Return at most `most` entries of each class (0: all), those with the highest scores, sorted by class, then as given."""
    kept: list[BankEntry] = []
    for index in sorted({entry.class_index for entry in entries}):
        own = [entry for entry in entries if entry.class_index == index]
        best = sorted(own, key=lambda entry: -entry.score)[: most or None]
        kept += [entry for entry in own if entry in best]
    return kept


def _write_chunk(source: BankSource, tasks: Sequence[LabelledId]) -> tuple[list[BankEntry], list[str]]:
    entries: list[BankEntry] = []
    reasons: list[str] = []
    for image_id, classes in tasks:
        image = np.asarray(read_image(source.image_dir / f"{image_id}.jpg"))
        height, width = image.shape[:2]
        labels, scores = _read_labels(source, image_id, classes, (width, height))
        saliency = None
        if source.saliency_dir is not None:
            saliency = np.asarray(read_saliency(source.saliency_dir / f"{image_id}.png", (width, height)))
        found, excluded = select_objects(labels, scores, saliency, source.rule, source.salient)
        entries += [_write(source, image_id, image, saliency, chosen) for chosen in found]
        reasons += excluded
    return entries, reasons


def _read_labels(
    source: BankSource, image_id: str, classes: Sequence[int], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], dict[int, NDArray[np.uint8]]]:
    """Return the label map (H, W) and the class maps it was made of (none from pseudo labels)."""
    rule = source.rule
    if rule.source == "labels":
        return read_label_map(Path(rule.label_dir) / f"{image_id}.png", source.num_classes, size), {}
    cams = {k: read_cam(cam_path(Path(rule.cam_dir), image_id, k), size) for k in classes}
    width, height = size
    return fuse_threshold(classes, list(cams.values()), (height, width), rule.threshold), cams


def _write(
    source: BankSource, image_id: str, image: NDArray[np.uint8], saliency: NDArray[np.uint8] | None, chosen: Selected
) -> BankEntry:
    x1, y1, x2, y2 = chosen.box
    window = (slice(y1, y2), slice(x1, x2))
    mask = chosen.mask[window]
    entry = BankEntry(chosen.class_index, image_id, chosen.box, int(mask.sum()), chosen.share, chosen.score)
    alpha = mask.astype(np.uint8) * np.uint8(OPAQUE)
    folder = Path(source.rule.dir)
    # Without saliency all of the object can be pasted.
    write_png(folder / entry.saliency_file, alpha if saliency is None else np.ascontiguousarray(saliency[window]))
    write_png(folder / entry.file, np.dstack([image[window], alpha]))
    return entry
