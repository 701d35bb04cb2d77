"""Which object of a label map is good enough to be pasted into other images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from configs.paste_schema import BankConfig
from utils.cams.labels import fuse_threshold
from utils.cams.store import LabelledId, chunked, read_cams
from utils.data.classes import label_value, mask_classes
from utils.data.folder import DataFolder
from utils.data.images import MAX_GREY, read_image, read_label_map, read_saliency, write_png
from utils.data.paste import OPAQUE, BankEntry
from utils.runtime.parallel import map_progress

Mask = NDArray[np.bool_]
CONNECTIVITY = 8
# Why there is no object, in the order the tests are made; keys of the report.
SEVERAL, NOTHING, SIZE, PIECES, SCORE, SALIENCY = (
    "more than one class", "no object", "too small or too large", "in pieces", "score too low", "not salient enough",
)  # fmt: skip


@dataclass(frozen=True)
class Selected:
    """An object: class (0-based), mask (H, W), box [x1, y1, x2, y2] around it, share of the image, mean score in [0, 1]."""

    class_index: int
    mask: Mask
    box: tuple[int, int, int, int]
    share: float
    score: float


def select_objects(
    labels: NDArray[np.uint8],
    scores: Mapping[int, NDArray[np.uint8]],
    saliency: NDArray[np.uint8] | None,
    rule: BankConfig,
    salient: int,
) -> tuple[list[Selected], list[str]]:
    """Return the objects of one image that pass, and the reason for each that does not (or for the whole image).

    Args:
        labels: (H, W) label map, 0 background, class + 1, 255 ignored (no object there).
        scores: class -> (H, W) 8-bit class map; a class without one scores 1.
        saliency: (H, W), or None when there is none: nothing is then tested against it.
        rule: section bank.
        salient: saliency above which a pixel can be pasted, 0..255.
    """
    classes = mask_classes(labels)
    if not classes:
        return [], [NOTHING]
    if rule.single_class and len(classes) > 1:
        return [], [SEVERAL]
    found: list[Selected] = []
    reasons: list[str] = []
    for index in classes:
        chosen = _judge(labels == label_value(index), index, scores, saliency, rule, salient)
        if isinstance(chosen, str):
            reasons.append(chosen)
        else:
            found.append(chosen)
    return found, reasons


def _judge(
    mask: Mask,
    index: int,
    scores: Mapping[int, NDArray[np.uint8]],
    saliency: NDArray[np.uint8] | None,
    rule: BankConfig,
    salient: int,
) -> Selected | str:
    low, high = rule.share
    if not low <= mask.mean() <= high:
        return SIZE
    if rule.connected > 0:
        whole, mask = int(mask.sum()), largest_piece(mask)
        if mask.sum() < rule.connected * whole:
            return PIECES
    score = float(scores[index][mask].mean()) / MAX_GREY if index in scores else 1.0
    if score < rule.min_score:
        return SCORE
    if saliency is not None and np.mean(saliency[mask] > salient) < rule.min_salient:
        return SALIENCY
    return Selected(index, mask, _box(mask), float(mask.mean()), score)


def largest_piece(mask: Mask) -> Mask:
    """Return the largest connected piece (diagonal neighbours count) of a mask (H, W) that is not empty."""
    _, pieces, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=CONNECTIVITY)
    areas = statistics[1:, cv2.CC_STAT_AREA]  # 0 is what is around
    return np.asarray(pieces == 1 + int(areas.argmax()))


def _box(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


CHUNK = 16


@dataclass(frozen=True)
class BankSource:
    """A data set, and what makes a good object: section bank, and the saliency (of 255) above which pixels are pasted."""

    data: DataFolder
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
        image = np.asarray(read_image(source.data.image(image_id)))
        height, width = image.shape[:2]
        labels, scores = _read_labels(source, image_id, classes, (width, height))
        saliency = None
        if source.data.saliency_dir is not None:
            saliency = np.asarray(read_saliency(source.data.saliency(image_id), (width, height)))
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
        return read_label_map(Path(rule.label_dir) / f"{image_id}.png", source.data.num_classes, size), {}
    cams = dict(zip(classes, read_cams(Path(rule.cam_dir), image_id, classes, size), strict=True))
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
