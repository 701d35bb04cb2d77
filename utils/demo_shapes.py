"""Curves, colours and noise the demo set's drawings are made of. Curves are (N, 2) float32, x to the right, y down."""

import colorsys
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.demo_canvas import Colour, FloatArray

CURVE_POINTS = 48  # corners of a closed curve; below a supersampled pixel for the sizes drawn
SPLINE_STEPS = 8  # points between two control points of a smooth curve
_TURN = np.linspace(0, 2 * np.pi, CURVE_POINTS, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1).astype(np.float32)


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> FloatArray:
    """An ellipse around (x, y) with half-axes `rx`, `ry`, turned by `angle` radians (clockwise)."""
    cos, sin = math.cos(angle), math.sin(angle)
    axes = np.asarray([[cos * rx, sin * rx], [-sin * ry, cos * ry]], np.float32)
    return np.asarray(_CIRCLE @ axes + np.asarray([x, y], np.float32), np.float32)


def polygon(*corners: tuple[float, float]) -> FloatArray:
    """Straight lines through `corners`."""
    return np.asarray(corners, np.float32)


def smooth(*corners: tuple[float, float], closed: bool = True) -> FloatArray:
    """A Catmull-Rom curve through `corners`."""
    points = np.asarray(corners, np.float32)
    ends = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
    padded = np.concatenate([ends[0], points, ends[1]])
    before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = np.linspace(0, 1, SPLINE_STEPS, endpoint=False, dtype=np.float32)[None, :, None]
    p0, p1, p2, p3 = (p[:, None, :] for p in (before, start, end, after))
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    flat = curve.reshape(-1, 2)
    return np.asarray(flat if closed else np.concatenate([flat, points[-1:]]), np.float32)


def tube(spine: FloatArray, widths: list[float]) -> FloatArray:
    """The closed outline of a bent tube along `spine (N, 2)`; `widths` (any number) are its half-widths from start to end."""
    along = np.linspace(0, 1, len(spine))
    half = np.interp(along, np.linspace(0, 1, len(widths)), widths)[:, None]
    direction = np.gradient(spine, axis=0)
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)
    side = np.stack([-direction[:, 1], direction[:, 0]], axis=1) * half
    return np.concatenate([spine + side, (spine - side)[::-1]]).astype(np.float32)


def pear(width: float, height: float, belly: float) -> FloatArray:
    """A body around the origin: half-axes `width`, `height`; `belly` in [0, 0.3] moves the wide part down."""
    t = np.linspace(0, 2 * np.pi, 2 * CURVE_POINTS, endpoint=False)
    x = width * np.cos(t) * (1 + belly * np.sin(t))
    return np.stack([x, height * np.sin(t)], axis=1).astype(np.float32)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB in [0, 1] of hue (turns, any real), saturation and value in [0, 1]."""
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with `share` in [0, 1] of `second`."""
    r, g, b = ((1 - share) * a + share * c for a, c in zip(first, second, strict=True))
    return r, g, b


def noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int], octaves: int = 3) -> FloatArray:
    """Smooth noise of `shape (H, W)`, mean about 0, within about [-1, 1]; `cells` blobs down and across, each octave halves
    the size and the height."""
    total: NDArray[np.float32] = np.zeros(shape, np.float32)
    for octave in range(octaves):
        grid = rng.uniform(-1, 1, (cells[0] * 2**octave + 1, cells[1] * 2**octave + 1)).astype(np.float32)
        total += cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR) * 0.5**octave
    return total
