"""Which object of a label map is good enough to be pasted into other images."""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from configs.paste_schema import BankConfig
from utils.classes import label_value, mask_classes
from utils.joint_histogram import LEVELS

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
    score = float(scores[index][mask].mean()) / (LEVELS - 1) if index in scores else 1.0
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
