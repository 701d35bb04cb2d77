"""Rules that turn the CAMs of an image's present classes into a pseudo label map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.cam_schema import PseudoConfig
from utils.cams.refinement import Refinement
from utils.cams.store import LabelledId, chunked, dictionary_path, quantised, read_cams
from utils.cams.sweep import first_level_above, winning_class
from utils.data.classes import BACKGROUND, IGNORE, label_value, palette
from utils.data.folder import DataFolder
from utils.data.images import MAX_GREY, image_size, read_image, read_label_map, read_saliency, write_png
from utils.errors import UserError
from utils.evaluation.metrics import confusion_matrix
from utils.runtime.parallel import map_progress

# Takes and returns probabilities (K + 1, H, W) float32 of background and the present classes; a dense CRF, for one.
Refiner = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def fuse_threshold(
    classes: Sequence[int],
    cams: Sequence[NDArray[np.uint8]],
    shape: tuple[int, int],
    threshold: float,
    refine: Refiner | None = None,
) -> NDArray[np.uint8]:
    """Label each pixel with its highest CAM, or background unless that beats a constant score (published rule).

    Args:
        classes: present classes, 0-based ascending; none: everything is background.
        cams: (H, W) 8-bit map of each; the score is value / 255.
        shape: (H, W).
        threshold: background score in [0, 1]; background wins ties, then the lower class (as float32 comparisons do).
        refine: improves the scores, divided by their sum over classes, before the highest is taken; None: does not (published).

    Returns:
        (H, W) label map, 0 background, class + 1.
    """
    if not classes:
        return np.full(shape, BACKGROUND, np.uint8)
    if refine is not None:
        scores = np.stack([np.full(shape, threshold, np.float32), *(cam / np.float32(MAX_GREY) for cam in cams)])
        return _refined_labels(classes, scores, refine)
    winner, value = winning_class(cams)
    foreground = value >= first_level_above(threshold)
    labels = np.full(shape, BACKGROUND, np.uint8)
    for position, class_index in enumerate(classes):
        np.copyto(labels, np.uint8(label_value(class_index)), where=foreground & (winner == position))
    return labels


def fuse_scores(
    classes: Sequence[int],
    scores: Sequence[NDArray[np.float32]],
    background: NDArray[np.float32],
    refine: Refiner | None = None,
) -> NDArray[np.uint8]:
    """Label each pixel with the highest of the background score and its classes' scores.

    Args:
        classes: present classes, 0-based ascending; none: everything is background.
        scores: (H, W) in [0, 1], one for each; background wins ties, then the lower class.
        background: (H, W) in [0, 1].
        refine: as of `fuse_threshold`.

    Returns:
        (H, W) label map, 0 background, class + 1.
    """
    stacked = np.stack([background, *scores])
    if refine is not None and classes:
        return _refined_labels(classes, stacked, refine)
    return np.array([BACKGROUND, *(label_value(c) for c in classes)], np.uint8)[stacked.argmax(0)]


def background_score(
    rule: PseudoConfig, scores: Sequence[NDArray[np.float32]], mask: NDArray[np.float32] | None, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the background's score (H, W) by `pseudo.background`.

    Args:
        rule: the section.
        scores: (H, W) in [0, 1] of the present classes.
        mask: the network's own background mask, None where there is none.
        shape: (H, W).

    Raises:
        UserError: for pseudo.background=mask without one.
    """
    if rule.background == "constant":
        return np.full(shape, rule.threshold, np.float32)
    if rule.background == "inverse":
        return (1 - np.max([np.zeros(shape, np.float32), *scores], axis=0)) ** np.float32(rule.background_power)
    if mask is None:
        raise UserError(
            f"pseudo.background=mask, but {rule.cam_dir} holds no background masks; make it with a single-stage method and "
            "cam.format=npz, or set pseudo.background=constant"
        )
    return mask ** np.float32(rule.background_power)


def fuse_saliency(
    classes: Sequence[int],
    cams: Sequence[NDArray[np.uint8]],
    saliency: NDArray[np.uint8],
    rule: PseudoConfig,
    refine: Refiner | None = None,
) -> NDArray[np.uint8]:
    """Label each pixel by CAM against saliency, and ignore (255) where the two contradict each other.

    With s = saliency / 255 the background scores 1 - s, each class its CAM scaled to [0, 1] over the image
    ((x - min) / (max - min); a constant map scores 0), or 0 below `cam_floor`. The highest score wins; background wins ties,
    then the lower class. A pixel is ignored when more than one score is above `conflict` (background's counts with
    `conflict_counts=all`, as published), or when it came out as background although its saliency is at least `salient` / 255
    or some class is above `cam_salient`. An image whose labelled foreground covers less than `min_foreground` of it is ignored
    entirely.

    Args:
        classes: present classes, 0-based ascending.
        cams: (H, W) 8-bit map of each.
        saliency: (H, W) 8-bit.
        rule: the constants named above.
        refine: improves the scores, divided by their sum over classes, before the highest is taken; what is ignored is then
            decided as without it. None: does not.

    Returns:
        (H, W) label map, 0 background, class + 1, 255 ignored.
    """
    # (255 - saliency) / 255, not 1 - saliency / 255: correctly rounded, so that equal scores are equal in float32.
    best = (np.uint8(MAX_GREY) - saliency).astype(np.float32) / np.float32(MAX_GREY)
    labels = np.full(saliency.shape, BACKGROUND, np.uint8)
    confident = ((best > np.float32(rule.conflict)) & (rule.conflict_counts == "all")).astype(np.uint8)
    doubtful = saliency >= rule.salient
    scores = np.zeros((len(classes) + 1, *saliency.shape), np.float32) if refine is not None else None
    if scores is not None:
        scores[0] = best
    for position, (class_index, cam) in enumerate(zip(classes, cams, strict=True), 1):
        low, high = int(cam.min()), int(cam.max())
        if high == low:
            continue
        scale = _min_max(np.arange(low, high + 1), low, high)
        # Scores rise with the 8-bit value: limits on scores become limits on values, cheap to compare.
        confident += cam > low + int(np.count_nonzero(scale <= np.float32(rule.conflict))) - 1
        doubtful |= cam > low + int(np.count_nonzero(scale <= np.float32(rule.cam_salient))) - 1
        score = _min_max(cam, low, high)
        score *= cam >= low + int(np.count_nonzero(scale < np.float32(rule.cam_floor)))
        np.copyto(labels, np.uint8(label_value(class_index)), where=score > best)
        np.maximum(best, score, out=best)
        if scores is not None:
            scores[position] = score
    if scores is not None and refine is not None:
        labels = _refined_labels(classes, scores, refine)
    doubtful &= labels == BACKGROUND
    np.copyto(labels, np.uint8(IGNORE), where=doubtful | (confident > 1))
    foreground = np.count_nonzero((labels != BACKGROUND) & (labels != IGNORE))
    if foreground / labels.size < rule.min_foreground:
        labels.fill(IGNORE)
    return labels


def _refined_labels(classes: Sequence[int], scores: NDArray[np.float32], refine: Refiner) -> NDArray[np.uint8]:
    """Label (H, W) by the refined scores (K + 1, H, W), background first; where all scores are 0, all are equally likely."""
    total = scores.sum(0)
    probabilities = np.full_like(scores, 1 / len(scores))
    np.divide(scores, total, out=probabilities, where=total > 0)
    values = np.array([BACKGROUND, *(label_value(c) for c in classes)], np.uint8)
    return values[refine(probabilities).argmax(0)]


def _min_max(values: NDArray[np.generic], low: int, high: int) -> NDArray[np.float32]:
    """Return (value - low) / (high - low), correctly rounded float32 of any shape."""
    return (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)


CHUNK = 16


@dataclass(frozen=True)
class LabelSource:
    """Where a data set and CAMs are, where labels go, and by which rule; `refinement` improves the scores first.

    Images without a ground-truth file are not compared with it.
    """

    data: DataFolder
    cam_dir: Path
    out_dir: Path
    rule: PseudoConfig
    refinement: Refinement = Refinement()


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
    total = no_counts(source.data.num_classes)
    # A refiner may take seconds an image: progress is by image.
    size = 1 if source.refinement else CHUNK
    what = f"label ({size} image(s) each)"
    for counts in map_progress(partial(label_chunk, source), chunked(tasks, size), workers=workers, what=what):
        total.add(counts)
    return total


def label_chunk(source: LabelSource, tasks: Sequence[LabelledId]) -> LabelCounts:
    """Label a few images in this process."""
    counts = no_counts(source.data.num_classes)
    colours = palette()
    for image_id, classes in tasks:
        labels = make_label(source, image_id, classes)
        write_png(source.out_dir / f"{image_id}.png", labels, colours)
        count_labels(source, counts, image_id, labels)
    return counts


def make_label(source: LabelSource, image_id: str, classes: Sequence[int]) -> NDArray[np.uint8]:
    """Read what the rule needs of one image and return its (H, W) label map."""
    refine = _refiner(source, image_id)
    size = image_size(source.data.image(image_id))
    rule, shape, walked = source.rule, (size[1], size[0]), source.refinement.cams is not None
    as_stored = rule.background != "constant" or dictionary_path(source.cam_dir, image_id) is not None
    if walked or (rule.fusion == "threshold" and as_stored):
        scores, mask = source.refinement.read(source.cam_dir, image_id, classes, size)
        if rule.fusion == "threshold":
            return fuse_scores(classes, scores, background_score(rule, scores, mask, shape), refine)
        cams = [quantised(score) for score in scores]
    else:
        cams = read_cams(source.cam_dir, image_id, classes, size)
    if rule.fusion == "threshold":
        return fuse_threshold(classes, cams, shape, rule.threshold, refine)
    saliency = np.asarray(read_saliency(source.data.saliency(image_id), size))
    return fuse_saliency(classes, cams, saliency, source.rule, refine)


def _refiner(source: LabelSource, image_id: str) -> Refiner | None:
    if source.refinement.scores is None:
        return None
    image = np.asarray(read_image(source.data.image(image_id)))
    return partial(source.refinement.scores.refine, image=image)


def count_labels(source: LabelSource, counts: LabelCounts, image_id: str, labels: NDArray[np.uint8]) -> None:
    """Add one image's labels (H, W) to `counts`, with their confusion where there is ground truth."""
    ignored = int(np.count_nonzero(labels == IGNORE))
    counts.images += 1
    counts.images_ignored += ignored == labels.size
    counts.pixels += labels.size
    counts.pixels_ignored += ignored
    counts.pixels_foreground += labels.size - ignored - int(np.count_nonzero(labels == BACKGROUND))
    truth_path = source.data.truth(image_id)
    if truth_path.exists():
        height, width = labels.shape
        truth = read_label_map(truth_path, source.data.num_classes, (width, height))
        counts.confusion += confusion_matrix(truth, labels, source.data.num_classes)
        counts.images_compared += 1


def no_counts(num_classes: int) -> LabelCounts:
    """Return the counts of no image."""
    return LabelCounts(np.zeros((num_classes + 1, num_classes + 1), np.int64))
