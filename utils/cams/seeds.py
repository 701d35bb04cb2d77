"""Labels where CAMs are sure: what IRNet learns from (its step from CAMs to "ir labels")."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from configs.irn_schema import SeedConfig
from utils.cams.refinement import ImageRefiner
from utils.data.classes import BACKGROUND, IGNORE, label_value

Floats = NDArray[np.float32]


# IRNet's rule of thumb: how far from the threshold that is best for labels.
ABOVE, BELOW = 0.15, 0.1


def proposed_thresholds(threshold: float) -> tuple[float, float]:
    """Return conf_fg and conf_bg, in [0, 1], for CAMs that give the best labels at `threshold`."""
    return min(threshold + ABOVE, 1.0), max(threshold - BELOW, 0.0)


def confident_labels(
    classes: Sequence[int], cams: Sequence[Floats], image: NDArray[np.uint8], rule: SeedConfig, crf: ImageRefiner
) -> NDArray[np.uint8]:
    """Return labels (H, W): a class where a high background score loses to it, background where a low one wins, else 255.

    Both are decided after a CRF that begins with each pixel's label at probability `rule.confidence`.

    Args:
        classes: present classes, 0-based ascending; none: everything is background.
        cams: (H, W) in [0, 1] of each.
        image: (H, W, 3) uint8 RGB.
        rule: the thresholds.
        crf: a refiner of probabilities.
    """
    if not classes:
        return np.full(image.shape[:2], BACKGROUND, np.uint8)
    values = np.array([BACKGROUND, *(label_value(k) for k in classes)], np.uint8)
    foreground, background = (
        values[_smoothed(_winners(cams, score), len(values), image, rule.confidence, crf)]
        for score in (rule.conf_fg, rule.conf_bg)
    )
    unsure = (foreground == BACKGROUND) & (background != BACKGROUND)
    return np.where(unsure, np.uint8(IGNORE), foreground)


def _winners(cams: Sequence[Floats], score: float) -> NDArray[np.intp]:
    """Return (H, W): 0 where background at this score is highest, or k + 1."""
    return np.concatenate([np.full((1, *cams[0].shape), score, np.float32), cams]).argmax(axis=0)


def _smoothed(
    winners: NDArray[np.intp], count: int, image: NDArray[np.uint8], confidence: float, crf: ImageRefiner
) -> NDArray[np.intp]:
    probabilities = np.full((count, *winners.shape), (1 - confidence) / (count - 1), np.float32)
    np.put_along_axis(probabilities, winners[None], np.float32(confidence), axis=0)
    return crf.refine(probabilities, image).argmax(axis=0)
