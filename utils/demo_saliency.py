"""Saliency maps as a fair but imperfect detector would give them: blurred, with missed parts, faint objects, false alarms."""

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.demo_canvas import FloatArray
from utils.demo_shapes import noise

FAINT_CHANCE = 0.09  # an object is seen only weakly
FAINT = (0.20, 0.45)  # its brightness then
CLEAR = (0.82, 1.0)  # brightness of the other objects
MISSING_CHANCE = 0.50  # a piece of an object is not seen
MISSING_RADIUS = (0.20, 0.38)  # of that piece, in object heights
FALSE_ALARM_CHANCE = 0.5  # an unlabelled thing is salient
FALSE_BRIGHTNESS = (0.55, 1.0)
WARP = (0.006, 0.024)  # wrong outlines: shift in picture sides
BLUR = (0.008, 0.022)  # standard deviation in picture sides
HAZE = 0.10  # brightest glimmer of the empty background


def imperfect_saliency(creatures: list[FloatArray], things: list[FloatArray], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a saliency map.

    Args:
        creatures: visible coverage of every labelled object, (H, W) in [0, 1].
        things: the same for the unlabelled things.

    Returns:
        (H, W) uint8, 255 is salient.
    """
    size = creatures[0].shape[0]
    total = np.zeros_like(creatures[0])
    for coverage in creatures:
        faint = rng.uniform() < FAINT_CHANCE
        seen = coverage * np.float32(rng.uniform(*(FAINT if faint else CLEAR)))
        total = np.maximum(total, seen * _missing_piece(coverage, rng))
    for coverage in things:
        if rng.uniform() < FALSE_ALARM_CHANCE:
            total = np.maximum(total, coverage * np.float32(rng.uniform(*FALSE_BRIGHTNESS)))
    blurred = cv2.GaussianBlur(_warped(total, rng), (0, 0), rng.uniform(*BLUR) * size)
    haze = np.maximum(0.0, noise(rng, (size, size), (3, 3), 2)) * rng.uniform(0, HAZE)
    unsure = 1 + 0.10 * noise(rng, (size, size), (5, 5), 2)
    return np.rint(np.clip(blurred * unsure + haze, 0, 1) * 255).astype(np.uint8)


def _missing_piece(coverage: FloatArray, rng: np.random.Generator) -> FloatArray:
    """1 where the object is seen, falling to 0 around a random place of it."""
    rows, columns = np.nonzero(coverage > 0.5)
    if rng.uniform() >= MISSING_CHANCE or len(rows) == 0:
        return np.ones_like(coverage)
    place = int(rng.integers(len(rows)))
    radius = rng.uniform(*MISSING_RADIUS) * max(int(np.ptp(rows)), int(np.ptp(columns)), 1)
    y, x = np.ogrid[: coverage.shape[0], : coverage.shape[1]]
    distance = np.sqrt((y - rows[place]) ** 2 + (x - columns[place]) ** 2) / radius
    return np.clip(3 * distance - 2, 0, 1).astype(np.float32)


def _warped(picture: FloatArray, rng: np.random.Generator) -> FloatArray:
    size = picture.shape[0]
    shift = rng.uniform(*WARP) * size
    y, x = np.mgrid[:size, :size].astype(np.float32)
    dx, dy = (noise(rng, (size, size), (5, 5), 2) * shift for _ in range(2))
    return np.asarray(cv2.remap(picture, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
