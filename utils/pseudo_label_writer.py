"""Write the pseudo labels of a set of images and count what came out, in portions that run on many processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from configs.schema import PseudoConfig
from utils.cam_files import LabelledId, cam_path, chunked
from utils.classes import BACKGROUND, IGNORE, palette
from utils.images import image_size, read_cam, read_image, read_label_map, read_saliency, write_png
from utils.metrics import confusion_matrix
from utils.parallel import map_progress
from utils.pseudo_labels import Refiner, fuse_saliency, fuse_threshold

if TYPE_CHECKING:
    from utils.crf import DenseCrf

CHUNK = 16


@dataclass(frozen=True)
class LabelSource:
    """Where images `<id>.jpg`, saliency, CAMs and ground truth are, where labels go, and by which rule.

    `label_dir` None: there is no ground truth to compare with; otherwise images without a file in it are not compared.
    `crf` refines the scores.
    """

    image_dir: Path
    saliency_dir: Path
    cam_dir: Path
    label_dir: Path | None
    out_dir: Path
    num_classes: int
    rule: PseudoConfig
    crf: "DenseCrf | None" = None


@dataclass
class LabelCounts:
    """What was written: numbers of images and pixels, and the (C + 1, C + 1) confusion with ground truth."""

    confusion: NDArray[np.int64]
    images: int = 0
    images_ignored: int = 0
    images_compared: int = 0
    pixels: int = 0
    pixels_ignored: int = 0
    pixels_foreground: int = 0

    def add(self, other: "LabelCounts") -> None:
        """Add the counts of other images."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def write_pseudo_labels(source: LabelSource, tasks: Sequence[LabelledId], *, workers: int) -> LabelCounts:
    """Write `<out_dir>/<id>.png` (palette PNG) for all images on `workers` processes (0: one per core).

    Each file appears whole or not at all; files that are there already are written anew.

    Raises:
        UserError: naming a file that is missing, damaged or of the wrong size.
    """
    total = _no_counts(source.num_classes)
    # A CRF takes seconds an image: progress is by image.
    size = CHUNK if source.crf is None else 1
    what = f"label ({size} image(s) each)"
    for counts in map_progress(partial(label_chunk, source), chunked(tasks, size), workers=workers, what=what):
        total.add(counts)
    return total


def label_chunk(source: LabelSource, tasks: Sequence[LabelledId]) -> LabelCounts:
    """Label a few images in this process."""
    counts = _no_counts(source.num_classes)
    colours = palette()
    for image_id, classes in tasks:
        labels = make_label(source, image_id, classes)
        write_png(source.out_dir / f"{image_id}.png", labels, colours)
        _count(source, counts, image_id, labels)
    return counts


def make_label(source: LabelSource, image_id: str, classes: Sequence[int]) -> NDArray[np.uint8]:
    """Read what the rule needs of one image and return its (H, W) label map."""
    refine = _refiner(source, image_id)
    size = image_size(source.image_dir / f"{image_id}.jpg")
    cams = [read_cam(cam_path(source.cam_dir, image_id, c), size) for c in classes]
    if source.rule.fusion == "threshold":
        width, height = size
        return fuse_threshold(classes, cams, (height, width), source.rule.threshold, refine)
    saliency = np.asarray(read_saliency(source.saliency_dir / f"{image_id}.png", size))
    return fuse_saliency(classes, cams, saliency, source.rule, refine)


def _refiner(source: LabelSource, image_id: str) -> Refiner | None:
    if source.crf is None:
        return None
    image = np.asarray(read_image(source.image_dir / f"{image_id}.jpg"))
    return partial(source.crf, image=image)


def _count(source: LabelSource, counts: LabelCounts, image_id: str, labels: NDArray[np.uint8]) -> None:
    ignored = int(np.count_nonzero(labels == IGNORE))
    counts.images += 1
    counts.images_ignored += ignored == labels.size
    counts.pixels += labels.size
    counts.pixels_ignored += ignored
    counts.pixels_foreground += labels.size - ignored - int(np.count_nonzero(labels == BACKGROUND))
    truth_path = source.label_dir / f"{image_id}.png" if source.label_dir else None
    if truth_path and truth_path.exists():
        height, width = labels.shape
        truth = read_label_map(truth_path, source.num_classes, (width, height))
        counts.confusion += confusion_matrix(truth, labels, source.num_classes)
        counts.images_compared += 1


def _no_counts(num_classes: int) -> LabelCounts:
    return LabelCounts(np.zeros((num_classes + 1, num_classes + 1), np.int64))
