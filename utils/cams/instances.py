"""Masks of single objects from CAMs, boundaries and displacements (IRNet): cells that move to one centre are one object."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from configs.irn_schema import InstanceConfig
from utils.cams.refinement import CamRefiner
from utils.errors import UserError
from utils.files import atomic_path

Floats = NDArray[np.float32]
FOUR_NEIGHBOURS = 4


@dataclass(frozen=True)
class Instances:
    """R objects of an image: `score` (R,) float32 in [0, 1], `mask` (R, H, W) bool, `classes` (R,) int64, 0-based."""

    score: Floats
    mask: NDArray[np.bool_]
    classes: NDArray[np.int64]


def find_instances(
    classes: Sequence[int],
    cams: Floats,
    boundary: Floats,
    displacement: Floats,
    size: tuple[int, int],
    rule: InstanceConfig,
    walk: CamRefiner,
) -> Instances:
    """Return the objects of an image: of each class and centre the CAM's cells that move there are walked; what beats the
    background and the others is cut into connected parts.

    Args:
        classes: present classes, 0-based ascending.
        cams: (K, h, w) in [0, 1] of each, small.
        boundary: (h, w) in [0, 1].
        displacement: (2, h, w), rows and columns, cells.
        size: (H, W) of the picture.
        rule: the constants.
        walk: the random walk.
    """
    if not classes:
        return _instances([], [], [], size)
    clusters = cluster_map(displacement, centres(displacement, rule.steps), rule.still)
    objects = int(clusters.max()) + 1
    one_hot = clusters == np.arange(objects)[:, None, None]
    maps = walk.refine_cams((cams[:, None] * one_hot).reshape(-1, *clusters.shape), boundary, size)
    winners = np.concatenate([np.full((1, *size), rule.threshold, np.float32), maps]).argmax(axis=0)
    scores, masks, found = list[float](), list[NDArray[np.bool_]](), list[int]()
    for number in np.unique(winners[winners > 0]) - 1:
        count, parts = cv2.connectedComponents((winners == number + 1).astype(np.uint8), connectivity=FOUR_NEIGHBOURS)
        for part in range(1, count):
            mask = parts == part
            large = mask.sum() >= rule.least_area * mask.size
            scores.append(float(maps[number][mask].max()) if large else 0.0)
            masks.append(mask)
            found.append(classes[number // objects])
    return _instances(scores, masks, found, size)


def centres(displacement: Floats, steps: int) -> NDArray[np.int64]:
    """Return (2, h, w): the row and column each cell comes to in so many steps along the displacements (2, h, w)."""
    height, width = displacement.shape[1:]
    limits = np.array([height - 1, width - 1], np.float32)[:, None, None]
    place = np.indices((height, width)).astype(np.float32)
    for _ in range(steps):
        low = np.floor(place).astype(np.int64)
        high = np.ceil(place).astype(np.int64)
        (y, x), (y0, x0), (y1, x1) = place - low, low, high
        upper = displacement[:, y0, x0] * (1 - x) + displacement[:, y0, x1] * x
        lower = displacement[:, y1, x0] * (1 - x) + displacement[:, y1, x1] * x
        place = np.clip(place + upper * (1 - y) + lower * y, 0, limits).astype(np.float32)
    return np.rint(place).astype(np.int64)


def cluster_map(displacement: Floats, places: NDArray[np.int64], still: float) -> NDArray[np.int64]:
    """Return (h, w) numbers from 0 on: which of the connected regions that hardly move (below `still` cells) a cell comes to.

    All places that do move are one region more.
    """
    calm = np.hypot(displacement[0], displacement[1]) < still
    _, regions = cv2.connectedComponents(calm.astype(np.uint8), connectivity=FOUR_NEIGHBOURS)
    found = regions[places[0], places[1]]
    return np.unique(found, return_inverse=True)[1].reshape(found.shape)


def write_instances(path: Path, found: Instances) -> None:
    """Write `<id>.npz`: score, mask and class, as IRNet names them; whole or not at all."""
    with atomic_path(path, sync=False) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{"score": found.score, "mask": found.mask, "class": found.classes})


def read_instances(path: Path) -> Instances:
    """Return what `write_instances` wrote. Raises UserError for a file that cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return Instances(file["score"], file["mask"], file["class"])
    except Exception as error:  # zip, its checksums, NumPy: each has errors of its own
        raise UserError(f"{path} cannot be read ({error}); delete it and run scripts.make_instances again") from error


def run_lengths_of(mask: NDArray[np.bool_]) -> list[int]:
    """Return COCO's run lengths of a mask (H, W), column by column, those of 0 first."""
    flat = mask.ravel(order="F")
    runs = np.diff([0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1), flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def _instances(
    scores: Sequence[float], masks: Sequence[NDArray[np.bool_]], classes: Sequence[int], size: tuple[int, int]
) -> Instances:
    return Instances(
        np.array(scores, np.float32), np.array(masks, bool).reshape(-1, *size), np.array(classes, np.int64)
    )  # fmt: skip
